// Kinglet: recurrent and hybrid language models in the browser. A worker does all computation; this module is its
// handle.

import { KingletError } from './errors.js';
import type { ErrorCode } from './errors.js';
import { Channel } from './channel.js';
import { load } from './load.js';
import type { Answer, ChatOptions, LoadOptions, Message, ModelInfo, ModelSource, ModelStats, SessionStats, Token } from './types.js';

// Older browsers lack the symbol, not the feature.
(Symbol as { dispose?: symbol }).dispose ??= Symbol.for('Symbol.dispose');

export { KingletError };
export type { ErrorCode };
export type { Answer, ChatOptions, LoadOptions, Message, ModelInfo, ModelSource, ModelStats, Progress, SessionStats, Token } from './types.js';
export { storage } from './stored.js';

/** A language model, loaded in its own worker. */
export class Model {
  readonly info: ModelInfo;
  readonly #channel: Channel;

  private constructor(channel: Channel, info: ModelInfo) {
    this.#channel = channel;
    this.info = info;
  }

  /**
   * Loads a model.
   *
   * @throws {KingletError} with a message and a `code`.
   */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
    const { channel, info } = await load(source, options);
    return new Model(channel, info);
  }

  /** Creates a session without tokens. */
  async session(): Promise<Session> {
    return new Session(this.#channel, await this.#channel.call<number>('session', []));
  }

  /** Restores a session that {@link Session.save} or {@link Snapshot.save} wrote. */
  async restoreSession(saved: ArrayBuffer): Promise<Session> {
    return new Session(this.#channel, await this.#channel.call<number>('readSession', [saved]));
  }

  /** Tokenizes a text. */
  async tokenize(text: string): Promise<Uint32Array> {
    return await this.#channel.call<Uint32Array>('tokenize', [text]);
  }

  /** Memory use, and how much of the prompts was reused. */
  async stats(): Promise<ModelStats> {
    return await this.#channel.call<ModelStats>('stats', []);
  }

  /** Frees all memory, including sessions and snapshots. */
  dispose(): void {
    this.#channel.end(new KingletError('disposed', 'the model was disposed'));
  }

  /** {@link Model.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A sequence of tokens and its state. */
export class Session {
  readonly #channel: Channel;
  readonly #handle: number;

  /** @internal */
  constructor(channel: Channel, handle: number) {
    this.#channel = channel;
    this.#handle = handle;
  }

  /**
   * Answers the last of `messages`. Only what the session (or another one of the model) has not computed before is
   * computed. Another call with the same messages gives another answer, starting from the same state as the first one.
   */
  chat(messages: readonly Message[], options: ChatOptions = {}): ChatStream {
    return this.#answer('chat', JSON.stringify(messages), options);
  }

  /** Continues a text without a template. */
  generate(prompt: string, options: ChatOptions = {}): ChatStream {
    return this.#answer('generate', prompt, options);
  }

  #answer(method: string, input: string, options: ChatOptions): ChatStream {
    const { signal, onPrompt, seed = Math.floor(Math.random() * 2 ** 32), ...rest } = options;
    const local = new Date();
    const now = Math.floor(local.getTime() / 1000) - local.getTimezoneOffset() * 60;
    const json = JSON.stringify({ ...rest, seed, now });
    return new ChatStream((stop, happened) => {
      const either = signal ? AbortSignal.any([signal, stop]) : stop;
      return this.#channel.call<Answer>(method, [this.#handle, input, json], { signal: either, happened });
    }, onPrompt);
  }

  /** Takes a snapshot of the session. It stays in the worker; {@link Snapshot.save} exports it. */
  async snapshot(): Promise<Snapshot> {
    const { handle, tokens } = await this.#channel.call<{ handle: number; tokens: number }>('snapshot', [this.#handle]);
    return new Snapshot(this.#channel, handle, tokens);
  }

  /** Restores the session to a snapshot of itself or of another session of the model. */
  async restore(snapshot: Snapshot): Promise<void> {
    await this.#channel.call('restore', [this.#handle, snapshot.handle]);
  }

  /** The session's state before its last answer, at the end of the prompt. */
  async lastPrompt(): Promise<Snapshot | undefined> {
    const found = await this.#channel.call<{ handle: number; tokens: number } | undefined>('lastPrompt', [this.#handle]);
    return found && new Snapshot(this.#channel, found.handle, found.tokens);
  }

  /** Copies the session. Both continue independently. */
  async fork(): Promise<Session> {
    return new Session(this.#channel, await this.#channel.call<number>('fork', [this.#handle]));
  }

  /** Exports the whole session as bytes; {@link Model.restoreSession} restores it, in another page, on another day. */
  async save(): Promise<ArrayBuffer> {
    return await this.#channel.call<ArrayBuffer>('save', [this.#handle]);
  }

  /** Number of tokens held, and size of the state in bytes. */
  async stats(): Promise<SessionStats> {
    return await this.#channel.call<SessionStats>('sessionStats', [this.#handle]);
  }

  /** The tokens so far. */
  async tokens(): Promise<Uint32Array> {
    return await this.#channel.call<Uint32Array>('sessionTokens', [this.#handle]);
  }

  /** Frees the session's state. */
  async dispose(): Promise<void> {
    await this.#channel.call('disposeSession', [this.#handle]);
  }
}

/** The state of a session at one moment. */
export class Snapshot {
  readonly #channel: Channel;
  /** @internal */
  readonly handle: number;
  /** Number of tokens of the session at that moment. */
  readonly tokens: number;

  /** @internal */
  constructor(channel: Channel, handle: number, tokens: number) {
    this.#channel = channel;
    this.handle = handle;
    this.tokens = tokens;
  }

  /** Like {@link Session.save}. */
  async save(): Promise<ArrayBuffer> {
    return await this.#channel.call<ArrayBuffer>('saveSnapshot', [this.handle]);
  }

  /** Frees the snapshot. */
  async dispose(): Promise<void> {
    await this.#channel.call('disposeSnapshot', [this.handle]);
  }
}

/**
 * An answer in progress: its tokens, for `for await`, and how it ended. It starts at once. Leaving the loop early stops
 * it.
 */
export class ChatStream implements AsyncIterable<Token> {
  /** How the answer ended. */
  readonly answer: Promise<Answer>;
  readonly #stop = new AbortController();
  #queue: Token[] = [];
  #text = '';
  #over = false;
  #failed: unknown;
  #wake: (() => void) | undefined;

  /** @internal */
  constructor(
    begin: (stop: AbortSignal, happened: (event: string, data: unknown) => void) => Promise<Answer>,
    onPrompt?: (progress: { done: number; total: number }) => void,
  ) {
    const happened = (event: string, data: unknown) => {
      if (event === 'prompt') onPrompt?.(data as { done: number; total: number });
      if (event !== 'tokens') return;
      for (const token of data as Token[]) {
        this.#text += token.text;
        this.#queue.push(token);
      }
      this.#wake?.();
    };
    this.answer = begin(this.#stop.signal, happened).then((ended) => ({ ...ended, text: this.#text }));
    this.answer.catch((error) => (this.#failed = error)).finally(() => {
      this.#over = true;
      this.#wake?.();
    });
  }

  /** Ends the answer. The part generated so far is kept. */
  stop(): void {
    this.#stop.abort();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Token, void, void> {
    try {
      for (;;) {
        const batch = this.#queue;
        this.#queue = [];
        yield* batch;
        if (this.#queue.length > 0) continue;
        if (this.#failed) throw this.#failed;
        if (this.#over) return;
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      if (!this.#over) {
        this.stop();
        await this.answer.catch(() => undefined);
      }
    }
  }
}
