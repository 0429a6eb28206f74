// Drawing on a canvas that fills an element: its size, the resolution of the screen, and the colours of the theme.

import { effect } from "@preact/signals";
import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { theme } from "../frame/theme";

export interface Surface {
  readonly context: CanvasRenderingContext2D;
  readonly width: number;
  readonly height: number;
  /** Returns the value of a colour of colours.css, for example of `--state-failed`. */
  readonly colour: (name: string) => string;
}

/**
 * Calls `draw` in the next frame after each drawing of the component, and after a change of the size or the theme.
 *
 * @returns the reference for the canvas, and its size in CSS pixels
 */
export function useCanvas(draw: (surface: Surface) => void): {
  canvas: RefObject<HTMLCanvasElement | null>;
  width: number;
  height: number;
} {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const latest = useRef(draw);
  latest.current = draw;
  const frame = useRef(0);
  const schedule = () => {
    frame.current ||= requestAnimationFrame(() => {
      frame.current = 0;
      const surface = canvas.current && prepare(canvas.current);
      if (surface) latest.current(surface);
    });
  };
  useEffect(schedule);
  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const observer = new ResizeObserver(() => {
      setSize({ width: element.clientWidth, height: element.clientHeight });
      schedule();
    });
    observer.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", schedule);
    const stop = effect(() => {
      void theme.value;
      schedule();
    });
    return () => {
      observer.disconnect();
      scheme.removeEventListener("change", schedule);
      stop();
      cancelAnimationFrame(frame.current);
    };
  }, []);
  return { canvas, ...size };
}

function prepare(canvas: HTMLCanvasElement): Surface | null {
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!context || !width || !height) return null;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  const known = new Map<string, string>();
  const colour = (name: string): string => {
    let value = known.get(name);
    if (value === undefined) known.set(name, (value = style.getPropertyValue(name).trim()));
    return value;
  };
  return { context, width, height, colour };
}
