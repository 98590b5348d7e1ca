// What must outlive a page that goes away before a file is written: questions without an answer, and drafts, which are of one tab, in places
// that are written at once. Each conversation has entries of its own, since several may be open in several tabs.

import type { Conversation, Turn } from './tree.js';

const ASKED = 'asked.';
const DRAFT = 'draft.';

/** A question, with what is needed to begin its conversation. */
interface Asked {
  turn: Turn;
  title: string;
  system: string;
  model: string;
}

function put(key: string, value: string | undefined, storage: 'localStorage' | 'sessionStorage' = 'localStorage'): void {
  try {
    if (value === undefined) globalThis[storage].removeItem(key);
    else globalThis[storage].setItem(key, value);
  } catch {
    // Full, or forbidden: then only the file keeps it.
  }
}

function get(key: string, storage: 'localStorage' | 'sessionStorage' = 'localStorage'): string | null {
  try {
    return globalThis[storage].getItem(key);
  } catch {
    return null;
  }
}

/** Writes down a question before its file is. */
export function asked({ id, title, system, model }: Conversation, turn: Turn): void {
  put(ASKED + id, JSON.stringify({ turn, title, system, model } satisfies Asked));
}

/** The question is in a file. */
export function settled(id: string, turn: Turn): void {
  const entry = waiting(id)?.turn;
  // Reworded in the meantime, it is not.
  if (entry?.id === turn.id && entry.content === turn.content) put(ASKED + id, undefined);
}

export function forget(id: string): void {
  put(ASKED + id, undefined);
  put(DRAFT + id, undefined, 'sessionStorage');
}

/** A question that may not have reached its file. */
function waiting(id: string): Asked | undefined {
  try {
    const found = JSON.parse(get(ASKED + id) ?? 'null') as Asked | null;
    const turn = found?.turn;
    return typeof turn?.id === 'string' && typeof turn.content === 'string' && typeof turn.parent === 'string' ? found ?? undefined : undefined;
  } catch {
    return undefined;
  }
}

/** All questions that may not have reached their files, by their conversation. */
export function allAsked(): [string, Asked][] {
  const found: [string, Asked][] = [];
  try {
    // As an earlier version of this page wrote it down.
    const [id, content] = JSON.parse(localStorage.getItem('asked') ?? '[]') as unknown[];
    if (typeof id === 'string' && typeof content === 'string') {
      found.push([id, { turn: { id: `${id}.asked`, parent: OLD, role: 'user', content, at: Date.now() }, title: '', system: '', model: '' }]);
    }
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(ASKED)) continue;
      const id = key.slice(ASKED.length);
      const entry = waiting(id);
      if (entry) found.push([id, entry]);
    }
  } catch {
    // No storage.
  }
  return found;
}

/** Where an earlier version's question belongs: after the last message. */
export const OLD = '*';

/** The earlier version's entry has become one of these. */
export function forgetOld(): void {
  put('asked', undefined);
}

export function draft(id: string): string {
  return get(DRAFT + id, 'sessionStorage') ?? '';
}

export function keepDraft(id: string, text: string): void {
  put(DRAFT + id, text || undefined, 'sessionStorage');
}
