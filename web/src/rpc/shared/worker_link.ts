// How a tab reaches the shared worker. The tab must never wait for a worker that does not start or has crashed.

import { Tunnel } from "./tunnel";

/** A started worker. `onFailure` calls back when the browser could not load the worker's program. */
export interface StartedWorker {
  readonly port: MessagePort;
  readonly onFailure: (callback: () => void) => void;
}

export interface WorkerLinkOptions {
  /** Starts the worker, or connects to it. An exception means that the browser forbids workers. */
  readonly start: () => StartedWorker;
  /** Is called with the tunnel to a worker that has answered. */
  readonly onReady: (tunnel: Tunnel) => void;
  /** A tab waits this long in ms for a worker that starts. */
  readonly startMs: number;
  /** A worker that has started must answer within this time in ms. */
  readonly replyMs: number;
}

export class WorkerLink {
  private tunnel: Tunnel | null = null;
  private starting: Promise<void> | null = null;
  private isLate = false;

  constructor(private readonly options: WorkerLinkOptions) {}

  /** The tunnel to the worker; null while there is none. */
  get current(): Tunnel | null {
    if (this.tunnel?.isDead) this.tunnel = this.starting = null;
    return this.tunnel;
  }

  /**
   * Resolves to the tunnel to the worker; null if there is no worker now. The caller then makes its request itself.
   *
   * Only the first callers wait for a worker that starts. Later callers use the worker once it has answered.
   */
  async reach(): Promise<Tunnel | null> {
    if (this.current) return this.current;
    this.starting ??= this.start();
    if (!this.isLate) await this.starting;
    return this.current;
  }

  /** Resolves when the worker has answered, has failed, or is late. */
  private start(): Promise<void> {
    this.isLate = false;
    return new Promise((resolve) => {
      const deadline = setTimeout(() => {
        this.isLate = true;
        resolve();
      }, this.options.startMs);
      const fail = () => {
        clearTimeout(deadline);
        this.starting = null; // The next stream tries again.
        resolve();
      };
      try {
        const { port, onFailure } = this.options.start();
        onFailure(fail);
        port.onmessage = () => {
          clearTimeout(deadline);
          this.tunnel = new Tunnel(port, this.options.replyMs);
          this.options.onReady(this.tunnel);
          resolve();
        };
      } catch {
        fail();
      }
    });
  }
}
