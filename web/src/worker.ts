// The program of the shared worker. It is empty until it carries the streams of several tabs.
export {};
