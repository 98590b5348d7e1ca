// The page's side of a worker.

import { KingletError } from './errors.js';
import type { ErrorCode } from './errors.js';
import type { Call, Happening, Reply } from './protocol.js';

interface Pending {
  resolve(value: unknown): void;
  reject(error: KingletError): void;
  happened?: ((event: string, data: unknown) => void) | undefined;
}

/** Calls to a worker. */
export class Channel {
  readonly #worker: Worker;
  /** Channel on which threads report that they have crashed. */
  readonly #crashes = new BroadcastChannel(`kinglet ${Date.now()} ${Math.random()}`);
  readonly #pending = new Map<number, Pending>();
  #next = 1;
  #over: KingletError | undefined;

  constructor() {
    try {
      this.#worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'kinglet' });
    } catch (cause) {
      throw new KingletError('unsupported', 'the browser refuses a worker', { cause });
    }
    this.#crashes.onmessage = ({ data }) => this.end(new KingletError('crashed', `a thread stopped: ${data}. Load the model again.`));
    this.#worker.onmessage = ({ data }: MessageEvent<Reply | Happening>) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.end(new KingletError('crashed', `the worker stopped: ${event.message ?? 'it could not be loaded'}`));
    };
  }

  /** The channel's name, which {@link Channel.call} of `load` passes to threads. */
  get crashes(): string {
    return this.#crashes.name;
  }

  #receive(data: Reply | Happening): void {
    const pending = this.#pending.get(data.id);
    if (!pending) return;
    if ('event' in data) {
      pending.happened?.(data.event, data.data);
      return;
    }
    this.#pending.delete(data.id);
    if (data.ok) pending.resolve(data.value);
    else pending.reject(new KingletError(data.error.code as ErrorCode, data.error.message));
  }

  call<T>(
    method: string, args: unknown[],
    options: { signal?: AbortSignal | undefined; happened?: (event: string, data: unknown) => void; transfer?: Transferable[] } = {},
  ): Promise<T> {
    if (this.#over) return Promise.reject(this.#over);
    const id = this.#next++;
    const { signal } = options;
    const stop = () => this.#worker.postMessage({ stop: id });
    return new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, happened: options.happened });
      try {
        this.#worker.postMessage({ id, method, args } satisfies Call, options.transfer ?? []);
      } catch (cause) {
        this.#pending.delete(id);
        reject(new KingletError('argument', `${method}: the value can't be sent to a worker`, { cause }));
        return;
      }
      if (signal?.aborted) stop();
      signal?.addEventListener('abort', stop);
    }).finally(() => signal?.removeEventListener('abort', stop)) as Promise<T>;
  }

  end(error: KingletError): void {
    this.#over ??= error;
    this.#worker.terminate();
    this.#crashes.close();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    pending.forEach(({ reject }) => reject(error));
  }
}
