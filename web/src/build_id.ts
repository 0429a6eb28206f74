// The identity of a build. `build.mjs` puts the hash of the sources in the place of the name `IRIS_BUILD`.

declare const IRIS_BUILD: string;

/** The build to which a program belongs. Programs of different builds do not work together. */
export const BUILD: string = IRIS_BUILD;
