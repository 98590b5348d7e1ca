// Conversations that survive a reload: a file of messages and two of state each, in the origin private file system.
// Several tabs may have them open: each write takes a lock and merges with what another tab has written, and the other
// tabs are notified.

import * as journal from './journal.js';
import { read } from './exchange.js';
import { append, begin, isDeleted, merge, path, titleOf } from './tree.js';
import type { Conversation } from './tree.js';

/** The state after the last answer, and before it. */
export type Moment = 'end' | 'before';

/** How long a deleted conversation is kept in case it is restored, in milliseconds. */
const KEPT = 60_000;

/** Conversations, stored as long as the browser allows. Without storage, they last as long as the page. */
export class Conversations {
  /** Called when another tab has changed or deleted one. */
  onChange: (conversation: Conversation) => void = () => undefined;
  readonly #folder: FileSystemDirectoryHandle | undefined;
  readonly #all = new Map<string, Conversation>();
  readonly #channel = typeof BroadcastChannel === 'undefined' ? undefined : new BroadcastChannel('kinglet.conversations');
  /** Pending writes of each conversation, which run one after another. */
  readonly #written = new Map<string, Promise<unknown>>();

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
    if (conversations.#channel) {
      conversations.#channel.onmessage = ({ data }: MessageEvent<{ id: string }>) => void conversations.#heard(data.id).catch(() => undefined);
    }
    for await (const entry of folder?.values() ?? []) {
      const id = /^(.+)\.json$/.exec(entry.name)?.[1];
      const found = id && entry.kind === 'file' && await conversations.#read(id);
      if (!found) continue;
      conversations.#all.set(id, found);
      if (isDeleted(found) && Date.now() - (found.deleted ?? 0) > KEPT) void conversations.purge(id).catch(() => undefined);
    }
    conversations.#takeUp();
    return conversations;
  }

  /** Questions whose files were not written before their page was closed. */
  #takeUp(): void {
    for (const [id, { turn, title, system, model }] of journal.allAsked()) {
      let conversation = this.#all.get(id);
      if (!conversation) {
        conversation = { ...begin(model, system), id, title };
        this.#all.set(id, conversation);
      }
      if (isDeleted(conversation)) journal.forget(id);
      else if (!conversation.turns.some((other) => other.id === turn.id)) {
        if (turn.parent !== journal.OLD) {
          conversation.turns.push(turn);
          conversation.picked[turn.parent] = turn.id;
        } else if (path(conversation).at(-1)?.role !== 'user') {
          append(conversation, { ...turn, parent: path(conversation).at(-1)?.id ?? '' });
        }
        conversation.title ||= titleOf(conversation);
      }
      void this.keep(conversation).catch(() => undefined);
    }
    journal.forgetOld();
  }

  /** All of them, the most recently changed first. */
  list(): Conversation[] {
    return [...this.#all.values()].filter((one) => !isDeleted(one) && one.turns.length > 0).sort((a, b) => b.changed - a.changed);
  }

  get(id: string): Conversation | undefined {
    const found = this.#all.get(id);
    return found && !isDeleted(found) ? found : undefined;
  }

  /** Stores a conversation, with its known state. Changes of another tab are merged into it. */
  async keep(conversation: Conversation, states: Partial<Record<Moment, ArrayBuffer>> = {}): Promise<void> {
    const { id } = conversation;
    this.#all.set(id, conversation);
    const folder = this.#folder;
    if (!folder) return;
    await this.#locked(id, async () => {
      const stored = await this.#read(id);
      if (stored) take(conversation, merge(conversation, stored));
      // Messages added during the write are not in it.
      const turns = [...conversation.turns];
      await write(folder, `${id}.json`, JSON.stringify(conversation));
      for (const turn of turns) journal.settled(id, turn);
      for (const moment of ['end', 'before'] as const) {
        const state = states[moment];
        if (state) await write(folder, `${id}.${moment}`, state);
      }
    });
    this.#channel?.postMessage({ id });
  }

  /** Adds an imported conversation, or merges it into an existing one. Returns the resulting conversation. */
  async take(imported: Conversation): Promise<Conversation> {
    const there = this.#all.get(imported.id);
    if (there) {
      take(there, merge(there, imported));
      if (isDeleted(there)) there.restored = Date.now();
    }
    const conversation = there ?? imported;
    await this.keep(conversation);
    return conversation;
  }

  /** Deletes a conversation; {@link restore} can undo it until {@link purge}. */
  async remove(conversation: Conversation): Promise<void> {
    conversation.deleted = Date.now();
    journal.forget(conversation.id);
    await this.keep(conversation);
  }

  async restore(conversation: Conversation): Promise<void> {
    conversation.restored = Math.max(Date.now(), (conversation.deleted ?? 0) + 1);
    await this.keep(conversation);
  }

  /** Removes the files of a deleted conversation. */
  async purge(id: string): Promise<void> {
    await this.#locked(id, async () => {
      // Another tab may have restored it.
      const stored = await this.#read(id);
      if (stored && !isDeleted(stored)) return;
      const there = this.#all.get(id);
      if (there && isDeleted(there)) this.#all.delete(id);
      for (const end of ['json', 'end', 'before']) {
        await this.#folder?.removeEntry(`${id}.${end}`).catch(() => undefined);
      }
    });
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

  /** Runs `body` while other tabs see that this conversation is being answered. One tab answers at a time; `signal` ends the wait. */
  async answering(id: string, signal: AbortSignal, body: () => Promise<void>): Promise<void> {
    if ('locks' in navigator) await navigator.locks.request(`kinglet.answering.${id}`, { signal }, body);
    else await body();
  }

  /** Whether a tab, possibly this one, is answering it now. `over` is called when it stops. */
  async answered(id: string, over?: () => void): Promise<boolean> {
    if (!('locks' in navigator)) return false;
    const name = `kinglet.answering.${id}`;
    const { held = [] } = await navigator.locks.query();
    const found = held.some((lock) => lock.name === name);
    if (found && over) void navigator.locks.request(name, { mode: 'shared' }, over);
    return found;
  }

  /** Another tab has written. */
  async #heard(id: string): Promise<void> {
    const stored = await this.#read(id);
    if (!stored) return;
    const there = this.#all.get(id);
    if (there) take(there, merge(there, stored));
    else this.#all.set(id, stored);
    this.onChange(there ?? stored);
  }

  async #read(id: string): Promise<Conversation | undefined> {
    try {
      const file = await (await this.#folder?.getFileHandle(`${id}.json`))?.getFile();
      const found = file && read(JSON.parse(await file.text()));
      return found?.id === id ? found : undefined;
    } catch {
      // Missing, or truncated during a write: skip it.
      return undefined;
    }
  }

  /** Runs an operation on a conversation's files after all earlier ones, here and in other tabs. */
  #locked(id: string, act: () => Promise<void>): Promise<void> {
    const alone = async () => {
      if ('locks' in navigator) await navigator.locks.request(`kinglet.conversation.${id}`, act);
      else await act();
    };
    const done = (this.#written.get(id) ?? Promise.resolve()).then(alone);
    this.#written.set(id, done.catch(() => undefined));
    return done;
  }
}

/** Copies one conversation into another object, which others refer to. */
function take(target: Conversation, source: Conversation): void {
  Object.assign(target, source);
}

/** Writes a file atomically. */
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
