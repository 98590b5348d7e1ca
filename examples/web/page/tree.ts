// A conversation is a tree of messages: another answer to a question, or another wording of it, is a branch next to the
// first. This module knows neither the page nor the storage.

import type { Message } from './kinglet/types.js';

/** A message and its position. Messages never change, except that an unanswered question may be reworded. */
export interface Turn {
  id: string;
  /** Id of the message it follows; empty for the first. */
  parent: string;
  role: string;
  content: string;
  /** When it was written, in milliseconds since 1970. */
  at: number;
  /** Key of the model that wrote it. */
  model?: string;
  /** How it ended, if not by itself: a reason of `Answer`. */
  ended?: string;
  /** Whether the user edited the model's text. */
  edited?: boolean;
}

/** A conversation in its stored and exported form. */
export interface Conversation {
  version: 2;
  id: string;
  title: string;
  /** When the user renamed it; 0 for a title taken from the first question. */
  named: number;
  changed: number;
  /** Key of its last model. */
  model: string;
  /** Key of the model whose state is stored with it. */
  state?: string;
  /** The system prompt. */
  system: string;
  systemAt: number;
  turns: Turn[];
  /** The branch chosen after each message; empty: none. Without a choice the last branch is used. */
  picked: Record<string, string>;
  pickedAt: number;
  /** When it was deleted; it can be restored for a while. */
  deleted?: number;
  /** When it was restored. */
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

/** The branches after a message, the oldest first. */
export function branches(conversation: Conversation, parent: string): Turn[] {
  return conversation.turns.filter((turn) => turn.parent === parent).sort((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1));
}

/** The visible messages, along the chosen branches. */
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

/** The messages up to a position, from the first one. */
export function upTo(conversation: Conversation, id: string): Turn[] {
  const byId = new Map(conversation.turns.map((turn) => [turn.id, turn]));
  const found: Turn[] = [];
  for (let turn = byId.get(id); turn && found.length < byId.size; turn = byId.get(turn.parent)) found.unshift(turn);
  return found;
}

/** Switches to a branch. */
export function pick(conversation: Conversation, { id, parent }: Pick<Turn, 'id' | 'parent'>): void {
  conversation.picked[parent] = id;
  conversation.pickedAt = Date.now();
}

/** Appends a message to another one, and switches to it. */
export function append(conversation: Conversation, turn: Omit<Turn, 'id' | 'at'>): Turn {
  // Keeps the order within one millisecond too.
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

/** The messages for an answer after `turns`. */
export function messages(conversation: Conversation, turns: readonly Turn[]): Message[] {
  const said = turns.map(({ role, content }) => ({ role, content }));
  return conversation.system.trim() ? [{ role: 'system', content: conversation.system.trim() }, ...said] : said;
}

export function isDeleted({ deleted = 0, restored = 0 }: Conversation): boolean {
  return deleted > restored;
}

/** Merges two versions of a conversation: every message of both, and the newer of everything else. */
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

/** The place of a search's words in a conversation, with some context; empty if they don't occur. */
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
