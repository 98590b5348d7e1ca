// A conversation is a tree of messages: another answer to a question, or another wording of it, is a branch beside the first. What is
// here knows neither page nor storage.

import type { Message } from './kinglet/types.js';

/** A message in its place. Once written it stays as it is; only a question that was never answered may be reworded. */
export interface Turn {
  id: string;
  /** The message that it follows; empty for the first. */
  parent: string;
  role: string;
  content: string;
  /** When it was written, in milliseconds since 1970. */
  at: number;
  /** Which model wrote it. */
  model?: string;
  /** How it ended, if not by itself: a reason of `Answer`. */
  ended?: string;
  /** A person has changed what the model wrote. */
  edited?: boolean;
}

/** A conversation as it is kept, and as it is exported. */
export interface Conversation {
  version: 2;
  id: string;
  title: string;
  /** When a person named it; 0 for a title that was taken from the first question. */
  named: number;
  changed: number;
  /** The model that it was last had with. */
  model: string;
  /** The model whose state is kept with it. */
  state?: string;
  /** What the model is told before the first message. */
  system: string;
  systemAt: number;
  turns: Turn[];
  /** The branch that was chosen after each message; empty: none of them. Where nothing was, the last one counts. */
  picked: Record<string, string>;
  pickedAt: number;
  /** When it was deleted: it can be had back for a while. */
  deleted?: number;
  /** When it was had back. */
  restored?: number;
}

export function newId(): string {
  return globalThis.crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;
}

export function begin(model: string, system = ''): Conversation {
  return {
    version: 2, id: newId(), title: '', named: 0, changed: Date.now(), model, system, systemAt: 0, turns: [], picked: {}, pickedAt: 0,
  };
}

/** What follows a message: the branches, the oldest first. */
export function branches(conversation: Conversation, parent: string): Turn[] {
  return conversation.turns.filter((turn) => turn.parent === parent).sort((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1));
}

/** The messages that are shown: along the branches that were chosen. */
export function path(conversation: Conversation): Turn[] {
  const found: Turn[] = [];
  const following = new Map<string, Turn[]>();
  for (const turn of conversation.turns) {
    const others = following.get(turn.parent);
    if (others) others.push(turn);
    else following.set(turn.parent, [turn]);
  }
  for (let parent = '', left = conversation.turns.length; left > 0; left--) {
    const next = following.get(parent)?.sort((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1)) ?? [];
    const picked = Object.hasOwn(conversation.picked, parent) ? conversation.picked[parent] : undefined;
    const turn = picked === '' ? undefined : next.find(({ id }) => id === picked) ?? next.at(-1);
    if (!turn) break;
    found.push(turn);
    parent = turn.id;
  }
  return found;
}

/** The messages before a place, from the first one on. */
export function upTo(conversation: Conversation, id: string): Turn[] {
  const byId = new Map(conversation.turns.map((turn) => [turn.id, turn]));
  const found: Turn[] = [];
  for (let turn = byId.get(id); turn && found.length < byId.size; turn = byId.get(turn.parent)) found.unshift(turn);
  return found;
}

/** Goes over to a branch. */
export function pick(conversation: Conversation, { id, parent }: Pick<Turn, 'id' | 'parent'>): void {
  conversation.picked[parent] = id;
  conversation.pickedAt = Date.now();
}

/** Puts a message after another one, and goes over to it. */
export function append(conversation: Conversation, turn: Omit<Turn, 'id' | 'at'>): Turn {
  // In one millisecond too, they stay in order.
  const last = Math.max(0, ...branches(conversation, turn.parent).map(({ at }) => at));
  const added = { id: newId(), at: Math.max(Date.now(), last + 1), ...turn };
  conversation.turns.push(added);
  pick(conversation, added);
  if (!conversation.named) conversation.title ||= titleOf(conversation);
  return added;
}

/** The first words of the first question. */
export function titleOf(conversation: Conversation): string {
  const first = conversation.turns.find(({ role }) => role === 'user')?.content.trim().replace(/\s+/g, ' ') ?? '';
  return [...first].slice(0, 60).join('');
}

/** What a model is given for an answer after `turns`. */
export function messages(conversation: Conversation, turns: readonly Turn[]): Message[] {
  const said = turns.map(({ role, content }) => ({ role, content }));
  return conversation.system.trim() ? [{ role: 'system', content: conversation.system.trim() }, ...said] : said;
}

export function isDeleted({ deleted = 0, restored = 0 }: Conversation): boolean {
  return deleted > restored;
}

/** What two pages know of one conversation: every message of both, and of all else what is newer. */
export function merge(a: Conversation, b: Conversation): Conversation {
  const turns = new Map(a.turns.map((turn) => [turn.id, turn]));
  for (const turn of b.turns) {
    const other = turns.get(turn.id);
    if (!other || turn.at > other.at) turns.set(turn.id, turn);
  }
  const newer = <T>(key: 'named' | 'systemAt' | 'pickedAt' | 'changed', take: (from: Conversation) => T) => take(b[key] > a[key] ? b : a);
  const [older, newest] = b.pickedAt > a.pickedAt ? [a, b] : [b, a];
  const deleted = Math.max(a.deleted ?? 0, b.deleted ?? 0);
  const restored = Math.max(a.restored ?? 0, b.restored ?? 0);
  const state = newer('changed', ({ state }) => state);
  const merged: Conversation = {
    version: 2,
    id: a.id,
    title: (a.named === b.named ? newer('changed', ({ title }) => title) : newer('named', ({ title }) => title)) || a.title || b.title,
    named: Math.max(a.named, b.named),
    changed: Math.max(a.changed, b.changed),
    model: newer('changed', ({ model }) => model),
    ...(state !== undefined && { state }),
    system: newer('systemAt', ({ system }) => system),
    systemAt: Math.max(a.systemAt, b.systemAt),
    turns: [...turns.values()],
    picked: { ...older.picked, ...newest.picked },
    pickedAt: newest.pickedAt,
    ...(deleted > 0 && { deleted }),
    ...(restored > 0 && { restored }),
  };
  return merged;
}

/** Where the words of a search stand in a conversation, with some of what is around; nothing if they don't. */
export function find(conversation: Conversation, query: string): string | undefined {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return '';
  const has = (text: string) => words.every((word) => text.toLowerCase().includes(word));
  if (has(conversation.title)) return '';
  const turn = conversation.turns.find(({ content }) => has(content));
  if (!turn) return undefined;
  const at = Math.max(0, turn.content.toLowerCase().indexOf(words[0] ?? '') - 20);
  return `${at > 0 ? '…' : ''}${turn.content.slice(at, at + 90).replace(/\s+/g, ' ')}`;
}
