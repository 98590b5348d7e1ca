// The open conversation: asking, answering, rewording, and switching branches.

import { KingletError } from './kinglet/index.js';
import type { ChatStream, Model, Session } from './kinglet/index.js';
import type { Conversations } from './conversations.js';
import { byId, say } from './dom.js';
import { engine, report, statistics } from './engine.js';
import * as journal from './journal.js';
import type { Shown } from './message.js';
import { isLocal, nameOf } from './names.js';
import { complain, note, quiet } from './notice.js';
import { chatOptions, defaultSystem, showSystem } from './settings.js';
import { append, begin, branches, isDeleted, messages, path, pick, titleOf, upTo } from './tree.js';
import type { Conversation, Turn } from './tree.js';

/** An answer in progress. */
interface Live {
  conversation: Conversation;
  parent: string;
  shown: Shown;
  stream: ChatStream | undefined;
  stopped: AbortController;
}

class Talk {
  /** Called when the displayed state has changed. */
  onChange: () => void = () => undefined;
  /** Makes an element for an answer that starts. */
  newAnswer: (() => Shown) | undefined;
  conversations!: Conversations;
  conversation: Conversation = begin('');
  live: Live | undefined;
  /** A question to answer once a model is loaded. */
  queued: string | undefined;
  /** Number of sessions that are being brought to their conversation's state. */
  #resuming = 0;
  /** Called when the user has decided which model continues. */
  asking: (() => void) | undefined;
  /** Whether another tab is answering the conversation now. */
  elsewhere = false;
  /** A question without an answer that was put back into the field. */
  #returned: Turn | undefined;
  /** Conversations that may continue with another model than before. */
  readonly #agreed = new Set<string>();
  #telling = 0;

  /** The model of the visible branch, if it differs from the running or loading one. */
  get otherModel(): string | undefined {
    const had = path(this.conversation).findLast(({ model }) => model)?.model ?? (this.conversation.turns.length > 0 ? this.conversation.model : '');
    const now = engine.loading?.key ?? engine.key;
    if (!had || !now || had === now || this.#agreed.has(`${this.conversation.id} ${now}`)) return undefined;
    return had;
  }

  /** Lets the conversation continue with the running model. */
  agree(): void {
    this.#agreed.add(`${this.conversation.id} ${engine.loading?.key ?? engine.key}`);
    const act = this.asking;
    this.asking = undefined;
    this.onChange();
    act?.();
  }

  /** Runs what needs an answer: at once, or when the user has decided on the model. Returns whether it ran at once. */
  #whenAgreed(act: () => void): boolean {
    if (this.otherModel === undefined) {
      act();
      return true;
    }
    this.asking = act;
    this.onChange();
    byId('ask', HTMLElement).querySelector('button')?.focus();
    say(byId('ask-text', HTMLElement).textContent ?? '');
    return false;
  }

  /** Sends the text of the field. */
  send(): void {
    const input = byId('input', HTMLTextAreaElement);
    const text = input.value.trim();
    if (!text || this.live) return;
    this.#whenAgreed(() => {
      input.value = '';
      input.dispatchEvent(new Event('input'));
      this.ask(text);
    });
  }

  /** Appends a question to the visible branch and answers it. */
  ask(text: string): void {
    if (this.live) return;
    quiet();
    const { conversation } = this;
    const shown = path(conversation);
    const last = shown.at(-1);
    const returned = this.#returned;
    this.#returned = undefined;
    let turn: Turn;
    if (returned && conversation.turns.includes(returned)) {
      // It was never answered, so its text is replaced.
      if (returned.content !== text) Object.assign(returned, { content: text, at: Math.max(Date.now(), returned.at + 1) });
      if (!conversation.named && conversation.turns.length === 1) conversation.title = titleOf(conversation);
      pick(conversation, returned);
      turn = returned;
    } else {
      // A question without an answer is reworded, not followed by a second question.
      turn = append(conversation, { parent: last?.role === 'user' ? last.parent : last?.id ?? '', role: 'user', content: text });
    }
    this.#asked(turn);
  }

  /** Rewords a question in a new branch. Returns whether it is asked now. */
  reword(turn: Turn, text: string): boolean {
    if (this.live) return false;
    return this.#whenAgreed(() => {
      this.#asked(append(this.conversation, { parent: turn.parent, role: turn.role, content: text }));
    });
  }

  #asked(turn: Turn): void {
    const { conversation } = this;
    conversation.changed = Date.now();
    // Deleted in another tab but used here: restore it.
    if (isDeleted(conversation)) conversation.restored = Date.now();
    rememberOpen(conversation.id);
    // What was typed outlives the page, whatever happens to the answer.
    journal.asked(conversation, turn);
    conversation.model ||= engine.key;
    void this.conversations.keep(conversation).catch(complain);
    void this.answer(turn.id);
  }

  /** Stores the user's edit of a model's message in a new branch. */
  correct(turn: Turn, text: string): boolean {
    if (this.live) return false;
    const { id: _id, at: _at, ended: _ended, ...rest } = turn;
    append(this.conversation, { ...rest, content: text, edited: true });
    this.#changed();
    return true;
  }

  /** Generates another answer in a new branch. */
  regenerate(turn: Turn): void {
    if (this.live) return;
    this.#whenAgreed(() => void this.answer(turn.parent));
  }

  /** Answers a question that has no answer. */
  retry(turn: Turn): void {
    this.#whenAgreed(() => void this.answer(turn.id));
  }

  /** Switches to a branch. */
  go(turn: Turn): void {
    if (this.live) return;
    pick(this.conversation, turn);
    this.#changed();
  }

  #changed(): void {
    this.onChange();
    void this.conversations.keep(this.conversation).catch(complain);
  }

  stop(): void {
    this.live?.stopped.abort();
    this.live?.stream?.stop();
  }

  /** Lets the model answer message `parent`, now or once it is loaded. */
  async answer(parent: string): Promise<void> {
    if (this.live) return;
    if (!engine.ready || engine.loading || !engine.session) {
      this.queued = this.waits ? parent : undefined;
      if (!this.waits) {
        complain(engine.model ? `${nameOf(engine.key)} has no chat template: choose another model` : 'No model is loaded: choose one');
      }
      return this.onChange();
    }
    this.queued = undefined;
    const shown = this.newAnswer?.();
    if (!shown) return;
    const live: Live = { conversation: this.conversation, parent, shown, stream: undefined, stopped: new AbortController() };
    this.live = live;
    shown.busy(true);
    shown.wait(this.elsewhere ? 'Waiting for another tab' : '');
    this.onChange();
    const { session } = engine;
    const { signal } = live.stopped;
    const done = this.conversations.answering(live.conversation.id, signal, () => this.#run(live, session));
    engine.busy = done.catch(() => undefined);
    let failed: unknown;
    try {
      await done;
    } catch (error) {
      failed = error;
      if (!signal.aborted) complain(error);
    } finally {
      shown.busy(false);
      engine.busy = undefined;
      if (this.live === live) this.live = undefined;
      this.onChange();
      if (isDeleted(live.conversation)) void this.changedElsewhere(live.conversation).catch(complain);
      if (document.activeElement === document.body) byId('input', HTMLElement).focus();
    }
    if (failed instanceof KingletError && ['crashed', 'memory', 'device-lost'].includes(failed.code)) await engine.recover(failed);
  }

  async #run(live: Live, session: Session): Promise<void> {
    const { conversation, parent, shown } = live;
    if (live.stopped.signal.aborted) return;
    shown.wait('');
    const model = engine.key;
    let text = '';
    const add = (content: string, ended?: string) => append(conversation, { parent, role: 'assistant', content, model, ...(ended && { ended }) });
    const stream = session.chat(messages(conversation, upTo(conversation, parent)), {
      ...chatOptions(),
      onPrompt: ({ done, total }) => {
        if (total > 64 && !text) shown.wait(`Reading ${done} of ${total} tokens`);
      },
    });
    live.stream = stream;
    const pace = meter();
    try {
      for await (const token of stream) {
        text += token.text;
        if (text) shown.setText(text);
        pace();
      }
      const ended = await stream.answer;
      if (ended.text || ended.reason !== 'stopped') add(ended.text, ended.reason.startsWith('stop-') ? undefined : ended.reason);
      say(`Answer: ${ended.text}`);
      await Promise.all([this.#keep(conversation, session), report(ended)]);
    } catch (error) {
      // Text is not lost with the worker; the state is that after the last answer, or is computed again.
      if (text) add(text, 'failed');
      conversation.model = model;
      await this.conversations.keep(conversation).catch(complain);
      throw error;
    }
  }

  /** Stores the conversation and its state. */
  async #keep(conversation: Conversation, session: Session): Promise<void> {
    try {
      conversation.model = engine.key;
      conversation.state = engine.key;
      conversation.changed = Date.now();
      const states: { end?: ArrayBuffer; before?: ArrayBuffer } = { end: await session.save() };
      const prompt = await session.lastPrompt();
      if (prompt) {
        states.before = await prompt.save();
        await prompt.dispose();
      }
      await this.conversations.keep(conversation, states);
    } catch (error) {
      if (error instanceof DOMException && error.name === 'QuotaExceededError') {
        complain("The browser's storage is full: this conversation will be lost on reload. You can delete stored models under Model.");
      } else complain(error);
    }
  }

  /** Opens a conversation. */
  async open(chosen: Conversation): Promise<void> {
    this.stop();
    await engine.busy;
    const input = byId('input', HTMLTextAreaElement);
    this.#takeBack();
    this.conversation = chosen;
    this.queued = undefined;
    this.asking = undefined;
    this.elsewhere = false;
    rememberOpen(chosen.turns.length > 0 ? chosen.id : '');
    input.value = journal.draft(chosen.turns.length > 0 ? chosen.id : '');
    showSystem(chosen.system);
    await this.#lookElsewhere();
    if (this.conversation !== chosen) return;
    this.#giveBack();
    input.dispatchEvent(new Event('input'));
    this.onChange();
    await this.resume().catch(complain);
    this.onChange();
    void report();
    // A question asked while the session was being prepared.
    if (this.conversation === chosen && engine.ready && !engine.loading) this.goOn();
  }

  /** Starts a new conversation; it is stored once something is said. */
  fresh(): Conversation {
    return begin('', defaultSystem());
  }

  /** Puts back a question whose answer never came, for example because the page was closed. */
  #giveBack(): void {
    const { conversation } = this;
    const last = path(conversation).at(-1);
    const input = byId('input', HTMLTextAreaElement);
    if (last?.role !== 'user' || this.elsewhere) return;
    // Keep a draft in the field: then the question stays in place and can be answered there.
    if (input.value.trim() && input.value.trim() !== last.content) return;
    input.value = last.content;
    conversation.picked[last.parent] = '';
    this.#returned = last;
  }

  /** Shows a question that was put back where it was asked. */
  #takeBack(): void {
    const returned = this.#returned;
    this.#returned = undefined;
    if (returned && this.conversation.picked[returned.parent] === '') this.conversation.picked[returned.parent] = returned.id;
  }

  /** Checks whether another tab is answering this conversation; when it stops, shows the result. */
  async #lookElsewhere(): Promise<void> {
    const { conversation } = this;
    this.elsewhere = !this.live && await this.conversations.answered(conversation.id, () => {
      this.elsewhere = false;
      if (this.conversation === conversation) this.onChange();
    });
  }

  /** Handles a conversation changed by another tab. */
  async changedElsewhere(changed: Conversation): Promise<void> {
    if (changed.id !== this.conversation.id) return this.onChange();
    if (this.conversations.get(changed.id) === undefined) {
      if (this.live) return;
      note(`“${changed.title}” was deleted in another tab.`, { text: 'Undo', act: () => void this.bringBack(changed) });
      return await this.open(this.fresh());
    }
    showSystem(this.conversation.system);
    await this.#lookElsewhere();
    const returned = this.#returned;
    if (returned && branches(this.conversation, returned.id).length > 0) {
      // It was answered there.
      this.#takeBack();
      const input = byId('input', HTMLTextAreaElement);
      if (input.value.trim() === returned.content) input.value = '';
    }
    this.onChange();
  }

  async bringBack(conversation: Conversation): Promise<void> {
    await this.conversations.restore(conversation).catch(complain);
    await this.open(conversation);
  }

  /** Whether a model or a session is being loaded. */
  get waits(): boolean {
    return engine.loading !== undefined || this.#resuming > 0;
  }

  /** Brings the session to the conversation's state, from what was stored. */
  async resume(): Promise<void> {
    if (!engine.model) return;
    this.#resuming += 1;
    try {
      await this.#resume(engine.model);
    } finally {
      this.#resuming -= 1;
    }
  }

  async #resume(model: Model): Promise<void> {
    const { id, state } = this.conversation;
    const before = engine.session;
    engine.session = undefined;
    let session: Session | undefined;
    this.onChange();
    try {
      if (state === engine.key) {
        // Restore the state before the last answer, for another one.
        const prompt = await this.conversations.state(id, 'before');
        if (prompt) await (await model.restoreSession(prompt)).dispose();
        const end = await this.conversations.state(id, 'end');
        if (end) session = await model.restoreSession(end);
      }
    } catch (error) {
      // Another version of the model: the messages are kept, the state is computed again.
      if (!(error instanceof KingletError) || error.code !== 'saved-state') throw error;
    } finally {
      await before?.dispose().catch(() => undefined);
      if (engine.model === model && this.conversation.id === id) engine.session = session ?? await model.session();
      else await session?.dispose().catch(() => undefined);
    }
  }

  /** A model has been loaded: pending work continues. */
  goOn(): void {
    const { queued, asking } = this;
    this.queued = undefined;
    if (queued !== undefined) this.#whenAgreed(() => void this.answer(queued));
    else if (asking && this.otherModel === undefined && engine.ready) {
      this.asking = undefined;
      asking();
    }
  }

  /** Sets the system prompt. It is stored when typing stops. */
  tell(system: string): void {
    const { conversation } = this;
    conversation.system = system;
    conversation.systemAt = Date.now();
    clearTimeout(this.#telling);
    this.#telling = setTimeout(() => {
      if (conversation.turns.length > 0) void this.conversations.keep(conversation).catch(complain);
    }, 300);
  }

  /** Loads the model of the conversation. */
  async loadOther(): Promise<void> {
    const other = this.otherModel;
    if (other && !isLocal(other) && URL.canParse(other)) await engine.load(other, other);
  }
}

export const talk = new Talk();

/** Updates the statistics during an answer, a few times a second. */
function meter(): () => void {
  const begun = performance.now();
  let [count, told] = [0, begun];
  return () => {
    count++;
    const now = performance.now();
    if (now - told < 250) return;
    told = now;
    statistics([`${(count / ((now - begun) / 1000)).toFixed(1)} tokens/s`, `${count} tokens`]);
  };
}

/** A reloaded tab shows the same conversation, and a new one the last opened. */
function rememberOpen(id: string): void {
  for (const storage of ['sessionStorage', 'localStorage'] as const) {
    try {
      globalThis[storage].setItem('conversation', id);
    } catch {
      // Then it is still in the list.
    }
  }
}

/** The conversation that was open. */
export function lastOpen(): string {
  try {
    return sessionStorage.getItem('conversation') ?? localStorage.getItem('conversation') ?? '';
  } catch {
    return '';
  }
}
