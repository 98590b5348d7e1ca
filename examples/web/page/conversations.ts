// Conversations that survive a reload: a file of messages and two of state for each, in the origin private file system.

import type { Message } from './kinglet/index.js';

/** A conversation as it is kept. */
export interface Conversation {
  id: string;
  title: string;
  changed: number;
  /** The model that it was had with. */
  model: string;
  messages: Message[];
}

/** The state after the last answer, and before it. */
export type Moment = 'end' | 'before';

/** Conversations, kept as long as the browser keeps them. Where it keeps none, they last as long as the page. */
export class Conversations {
  readonly #folder: FileSystemDirectoryHandle | undefined;
  readonly #all = new Map<string, Conversation>();
  /** The last write that was asked for: they follow one another, so that the last one stays. */
  #written: Promise<unknown> = Promise.resolve();

  private constructor(folder: FileSystemDirectoryHandle | undefined) {
    this.#folder = folder;
  }

  /** What is there. */
  static async open(): Promise<Conversations> {
    let folder: FileSystemDirectoryHandle | undefined;
    try {
      const root = await navigator.storage.getDirectory();
      folder = await (await root.getDirectoryHandle('kinglet', { create: true })).getDirectoryHandle('conversations', { create: true });
    } catch {
      // No storage, as in some private windows.
    }
    const conversations = new Conversations(folder);
    if (!folder) return conversations;
    for await (const entry of folder.values()) {
      if (entry.kind !== 'file' || !entry.name.endsWith('.json')) continue;
      try {
        const file = await (entry as FileSystemFileHandle).getFile();
        const read = JSON.parse(await file.text()) as Conversation;
        if (`${read.id}.json` === entry.name && Array.isArray(read.messages)) conversations.#all.set(read.id, read);
      } catch {
        // Cut off while it was written: the others are none the worse.
      }
    }
    return conversations;
  }

  /** All of them, the last changed first. */
  list(): Conversation[] {
    return [...this.#all.values()].sort((a, b) => b.changed - a.changed);
  }

  get(id: string): Conversation | undefined {
    return this.#all.get(id);
  }

  /** A new one, which is kept once something is said. */
  begin(model: string): Conversation {
    const id = globalThis.crypto.randomUUID?.() ?? String(Date.now() + Math.random());
    return { id, title: '', changed: Date.now(), model, messages: [] };
  }

  /** Keeps a conversation, with what is known of its state. */
  async keep(conversation: Conversation, states: Partial<Record<Moment, ArrayBuffer>> = {}): Promise<void> {
    conversation.changed = Date.now();
    conversation.title ||= conversation.messages.find(({ role }) => role === 'user')?.content.slice(0, 60) ?? '';
    this.#all.set(conversation.id, conversation);
    const folder = this.#folder;
    if (!folder) return;
    await this.#next(async () => {
      await write(folder, `${conversation.id}.json`, JSON.stringify(conversation));
      for (const moment of ['end', 'before'] as const) {
        const state = states[moment];
        if (state) await write(folder, `${conversation.id}.${moment}`, state);
      }
    });
  }

  /** Does what is to be done to files after all that was asked for before. */
  #next(act: () => Promise<void>): Promise<void> {
    const done = this.#written.then(act);
    this.#written = done.catch(() => undefined);
    return done;
  }

  /** The state at a moment, if it was kept. */
  async state(id: string, moment: Moment): Promise<ArrayBuffer | undefined> {
    try {
      const file = await this.#folder?.getFileHandle(`${id}.${moment}`);
      return await (await file?.getFile())?.arrayBuffer();
    } catch {
      return undefined;
    }
  }

  async remove(id: string): Promise<void> {
    this.#all.delete(id);
    await this.#next(async () => {
      for (const end of ['json', 'end', 'before']) {
        await this.#folder?.removeEntry(`${id}.${end}`).catch(() => undefined);
      }
    });
  }
}

/** Writes a file whole or not at all. */
async function write(folder: FileSystemDirectoryHandle, name: string, contents: string | ArrayBuffer): Promise<void> {
  const writable = await (await folder.getFileHandle(name, { create: true })).createWritable();
  try {
    await writable.write(contents);
    await writable.close();
  } catch (error) {
    await writable.abort().catch(() => undefined);
    throw error;
  }
}
