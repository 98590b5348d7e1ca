// Conversations as text. Stored and exported files are parsed strictly, including older forms; Markdown is for people.

import { newId, path, titleOf } from './tree.js';
import type { Conversation, Turn } from './tree.js';

type Fields = Record<string, unknown>;

const isObject = (value: unknown): value is Fields => typeof value === 'object' && value !== null && !Array.isArray(value);
const text = (value: unknown): string => (typeof value === 'string' ? value : '');
const time = (value: unknown): number => (typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : 0);
/** Ids become file names and object keys. */
const isId = (value: unknown): value is string => typeof value === 'string' && /^[A-Za-z0-9.-]{1,80}$/.test(value) && /[A-Za-z0-9]/.test(value);

/** Parses a conversation: in the stored form, in the form of earlier versions, or any object with a list of `messages`. */
export function read(value: unknown): Conversation | undefined {
  if (!isObject(value)) return undefined;
  if (Array.isArray(value.turns)) return readTree(value, value.turns);
  if (Array.isArray(value.messages)) return readList(value, value.messages);
  return undefined;
}

function readTree(value: Fields, list: unknown[]): Conversation | undefined {
  const turns: Turn[] = [];
  for (const entry of list) {
    if (!isObject(entry) || !isId(entry.id) || typeof entry.role !== 'string' || typeof entry.content !== 'string') return undefined;
    if (entry.parent !== '' && !isId(entry.parent)) return undefined;
    turns.push({
      id: entry.id,
      parent: entry.parent,
      role: entry.role,
      content: entry.content,
      at: time(entry.at),
      ...(typeof entry.model === 'string' && { model: entry.model }),
      ...(typeof entry.ended === 'string' && { ended: entry.ended }),
      ...(entry.edited === true && { edited: true }),
    });
  }
  // Messages that are detached, or their own ancestors, would never be shown.
  const known = new Map(turns.map((turn) => [turn.id, turn]));
  if (known.size !== turns.length) return undefined;
  for (const turn of turns) {
    let [up, steps]: [Turn | undefined, number] = [turn, 0];
    while (up && up.parent !== '' && steps++ <= turns.length) up = known.get(up.parent);
    if (!up || steps > turns.length) turn.parent = '';
  }
  const picked: Conversation['picked'] = {};
  for (const [parent, id] of Object.entries(isObject(value.picked) ? value.picked : {})) {
    // A question that was put back into the field (an empty id) is shown by the next one.
    if ((parent === '' || known.has(parent)) && typeof id === 'string' && known.has(id)) picked[parent] = id;
  }
  return {
    ...common(value),
    title: text(value.title) || titleFrom(turns),
    named: time(value.named),
    system: text(value.system),
    systemAt: time(value.systemAt),
    ...(typeof value.state === 'string' && { state: value.state }),
    turns,
    picked,
    pickedAt: time(value.pickedAt),
    ...(time(value.deleted) > 0 && { deleted: time(value.deleted) }),
    ...(time(value.restored) > 0 && { restored: time(value.restored) }),
  };
}

/** A list of messages becomes a tree without branches. */
function readList(value: Fields, list: unknown[]): Conversation | undefined {
  const { id, changed, model } = common(value);
  const turns: Turn[] = [];
  const system: string[] = [];
  for (const [index, entry] of list.entries()) {
    if (!isObject(entry) || typeof entry.role !== 'string') return undefined;
    const content = typeof entry.content === 'string' ? entry.content : parts(entry.content);
    if (content === undefined) return undefined;
    if (entry.role === 'system' && turns.length === 0) {
      system.push(content);
      continue;
    }
    turns.push({
      // Deterministic, so that two pages that read the same file agree.
      id: `${id.slice(0, 60)}.${index}`,
      parent: turns.at(-1)?.id ?? '',
      role: entry.role,
      content,
      at: Math.max(1, changed - list.length + index),
      ...(entry.role === 'assistant' && model && { model }),
    });
  }
  return {
    ...common(value), id, title: text(value.title) || titleFrom(turns), named: 0, ...(model && { state: model }),
    system: system.join('\n\n'), systemAt: 0, turns, picked: {}, pickedAt: 0,
  };
}

/** Joins the texts of content in parts. */
function parts(content: unknown): string | undefined {
  if (content === null || content === undefined) return '';
  if (!Array.isArray(content)) return undefined;
  return content.map((part) => (isObject(part) ? text(part.text) : text(part))).join('');
}

function common(value: Fields): Pick<Conversation, 'version' | 'id' | 'changed' | 'model'> {
  return { version: 2, id: isId(value.id) ? value.id : newId(), changed: time(value.changed) || Date.now(), model: text(value.model) };
}

function titleFrom(turns: Turn[]): string {
  return titleOf({ turns } as Conversation);
}

/** The format of exported conversations. */
export function write(conversations: readonly Conversation[]): string {
  // State and deletion are local to this browser.
  const plain = conversations.map(({ state: _state, deleted: _deleted, restored: _restored, ...rest }) => rest);
  return JSON.stringify({ format: 'kinglet-conversations', version: 2, conversations: plain }, null, 2);
}

/** The conversations of a file. Throws an error that describes what is wrong. */
export function readFile(contents: string): Conversation[] {
  let value: unknown;
  try {
    value = JSON.parse(contents);
  } catch {
    throw new Error('this file is not JSON');
  }
  const list = isObject(value) && Array.isArray(value.conversations) ? value.conversations : Array.isArray(value) ? value : [value];
  // A bare list of messages is a single conversation.
  const whole = list.length > 0 && list.every((entry) => isObject(entry) && 'role' in entry && 'content' in entry) ? [{ messages: list }] : list;
  const found = whole.map((entry, index) => {
    const conversation = read(entry);
    if (!conversation) throw new Error(`entry ${index + 1} of ${whole.length} is not a conversation: expected "turns" or "messages" with role and content`);
    return conversation;
  });
  if (found.length === 0) throw new Error('this file contains no conversation');
  // Merge conversations with the same id.
  return [...new Map(found.map((conversation) => [conversation.id, conversation])).values()];
}

/** The visible branch, as Markdown. */
export function markdown(conversation: Conversation, nameOf: (model: string) => string): string {
  const said = path(conversation).map(({ role, content, model }) => {
    const who = role === 'user' ? 'You' : role === 'assistant' ? (model && nameOf(model)) || 'Model' : role;
    return `**${who}:**\n\n${content.trim()}\n`;
  });
  const system = conversation.system.trim() && `> ${conversation.system.trim().replace(/\n/g, '\n> ')}\n`;
  return [`# ${conversation.title || 'Conversation'}\n`, ...(system ? [system] : []), ...said].join('\n');
}

/** A file name. */
export function fileName(title: string, end: string): string {
  const name = title.normalize('NFKD').replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-+|-+$/g, '').slice(0, 50);
  return `${name || 'conversation'}.${end}`;
}
