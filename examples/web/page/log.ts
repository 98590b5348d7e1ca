// Shows the open conversation, and what it is waiting for.

import { byId, iconButton, make, setText, show, textButton } from './dom.js';
import { engine } from './engine.js';
import { ending, message } from './message.js';
import type { Shown } from './message.js';
import { isDemo, isLocal, nameOf } from './names.js';
import { talk } from './talk.js';
import { branches, path, upTo } from './tree.js';
import type { Turn } from './tree.js';

/** Suggestions for a first message. A model that tells children's stories knows nothing else. */
const STORIES = [
  'Tell me a story about a dog who finds a boat.',
  'Tell me a story about two friends who share a cake.',
  'Tell me a story about a bird who is afraid to fly.',
  'Tell me a story about a girl and a lost kitten.',
];
const PROMPTS = [
  'Explain how rainbows form, as to a child.',
  'Write a polite email that moves a meeting to Friday.',
  'Give me three ideas for a quick dinner with rice and eggs.',
  'Write a Python function that checks whether a word is a palindrome.',
];

/** Elements of shown messages, by id, with their contents: unchanged messages keep their elements. */
let shown = new Map<string, { made: string; element: HTMLElement }>();
/** What was shown at the last scroll. */
let opened = '';

const log = () => byId('log', HTMLElement);

/** Whether the end is (nearly) in view. */
function atEnd(): boolean {
  const { scrollHeight, scrollTop, clientHeight } = log();
  return scrollHeight - scrollTop - clientHeight < 120;
}

function toEnd(): void {
  log().scrollTop = log().scrollHeight;
}

function messageOf(turn: Turn): HTMLElement {
  const others = branches(talk.conversation, turn.parent);
  const at = others.indexOf(turn);
  const made = JSON.stringify([turn.content, turn.model, turn.edited, at, others.map(({ id }) => id)]);
  const known = shown.get(turn.id);
  // Don't touch a message while it is being edited.
  if (known && (known.made === made || known.element.classList.contains('editing'))) return known.element;
  const model = turn.role === 'assistant';
  const person = turn.role === 'user';
  const who = person ? 'You' : model ? (turn.model ? nameOf(turn.model) : 'Model') : turn.role;
  const { element, remark } = message(turn.id, turn.role, who, turn.content, {
    copy: () => turn.content,
    ...(model && { regenerate: () => talk.regenerate(turn) }),
    ...((model || person) && { edit: (text: string) => (person ? talk.reword(turn, text) : talk.correct(turn, text)) }),
    branch: {
      at,
      of: others.length,
      go: (to) => {
        const other = others[to];
        if (!other) return;
        talk.go(other);
        focusBranch(other.id, to < at ? 'before' : 'after');
      },
    },
  });
  remark([turn.edited ? 'edited' : '', ending(turn.ended)].filter(Boolean).join(' · '));
  shown.set(turn.id, { made, element });
  return element;
}

/** Keeps the keyboard focus on the message that replaced the other one. */
function focusBranch(id: string, arrow: 'before' | 'after'): void {
  const buttons = log().querySelectorAll<HTMLButtonElement>(`article[data-id="${CSS.escape(id)}"] .branches button`);
  const button = [...buttons].find(({ disabled, classList }) => !disabled && classList.contains(arrow)) ?? [...buttons].find(({ disabled }) => !disabled);
  button?.focus({ preventScroll: true });
}

/** An element for an answer that starts. While it grows its end stays in view, unless the user has scrolled up. */
export function newAnswer(): Shown {
  const made = message('', 'assistant', nameOf(engine.key), '', {});
  let follow = true;
  const scrolled = () => (follow = atEnd());
  const observer = new ResizeObserver(() => follow && toEnd());
  return {
    ...made,
    busy: (busy) => {
      made.busy(busy);
      if (busy) {
        observer.observe(made.element);
        log().addEventListener('scroll', scrolled, { passive: true });
      } else {
        observer.disconnect();
        log().removeEventListener('scroll', scrolled);
      }
    },
  };
}

/** Shows the current state of everything. */
export function render(): void {
  const { conversation, live } = talk;
  const mine = live?.conversation === conversation ? live : undefined;
  const turns = mine ? upTo(conversation, mine.parent) : path(conversation);
  const stay = new Set(turns.map(({ id }) => id));
  const follow = atEnd() || opened !== conversation.id || mine !== undefined;
  const before = log().scrollTop;
  const children: HTMLElement[] = [];
  let model: string | undefined;
  for (const turn of turns) {
    if (turn.model && model !== undefined && turn.model !== model) {
      children.push(make('p', 'divider', `From here on: ${nameOf(turn.model)}`));
    }
    model = turn.model ?? model;
    children.push(messageOf(turn));
  }
  if (mine) children.push(mine.shown.element);
  shown = new Map([...shown].filter(([id]) => stay.has(id)));
  sync(byId('messages', HTMLElement), children);
  waiting(turns.at(-1), mine !== undefined);
  welcome(turns.length === 0 && !mine);
  ask();
  state();
  if (follow && opened !== conversation.id) toEnd();
  else if (!follow) log().scrollTop = before;
  else if (mine) toEnd();
  opened = conversation.id;
}

/** Sets the children of an element; those in place are not touched. */
function sync(element: HTMLElement, children: HTMLElement[]): void {
  children.forEach((child, index) => {
    const there = element.children[index];
    if (there !== child) element.insertBefore(child, there ?? null);
  });
  while (element.children.length > children.length) element.lastElementChild?.remove();
}

/** Shows the state of a question that has no answer. */
function waiting(last: Turn | undefined, live: boolean): void {
  const element = byId('pending', HTMLElement);
  const open = last?.role === 'user' && !live;
  element.hidden = !open;
  if (!open) return element.replaceChildren();
  const dots = () => make('span', 'dots', make('i'), make('i'), make('i'));
  if (talk.elsewhere) element.replaceChildren(dots(), 'It is being answered in another tab.');
  else if (talk.queued === last.id && talk.waits) element.replaceChildren(dots(), engine.loading ? `Waiting for ${nameOf(engine.loading.key)}` : '');
  else element.replaceChildren('This has no answer yet.', textButton('Try again', 'link', () => talk.retry(last)));
}

/** Shows the welcome screen. */
function welcome(open: boolean): void {
  const element = byId('welcome', HTMLElement);
  element.hidden = !open;
  if (!open) return;
  const key = engine.loading?.key ?? engine.key;
  setText('welcome-text', key
    ? `${nameOf(key)} runs in this page: nothing you write leaves your device.`
    : 'Choose a model to begin: it runs in this page, and nothing you write leaves your device.');
  const prompts = key && isDemo(key) ? STORIES : PROMPTS;
  const examples = byId('examples', HTMLElement);
  examples.hidden = !key;
  show('welcome-choose', !key);
  if (examples.dataset.for === prompts[0]) return;
  examples.dataset.for = prompts[0];
  examples.replaceChildren(...prompts.map((prompt) => textButton(prompt, 'example', () => talk.ask(prompt))));
}

/** Asks which model to continue with, if the conversation was with another one. */
function ask(): void {
  const other = talk.otherModel;
  const open = other !== undefined && !talk.live;
  show('ask', open);
  byId('ask', HTMLElement).classList.toggle('urgent', talk.asking !== undefined);
  if (!open) return;
  const now = nameOf(engine.loading?.key ?? engine.key);
  setText('ask-text', `This conversation was with ${nameOf(other)}. Which model should continue?`);
  const again = isLocal(other) || !URL.canParse(other)
    ? textButton(`Choose the files of ${nameOf(other)}…`, '', () => byId('model', HTMLElement).click())
    : textButton(`Load ${nameOf(other)}`, '', () => void talk.loadOther());
  byId('ask-choices', HTMLElement).replaceChildren(again, textButton(`Continue with ${now}`, '', () => talk.agree()));
}

/** Updates buttons, names, and the attributes that tests and styles use. */
function state(): void {
  const { live } = talk;
  const { loading, model, ready } = engine;
  show('stop', live !== undefined);
  show('send', live === undefined);
  byId('send', HTMLButtonElement).disabled = (!ready && !loading) || byId('input', HTMLTextAreaElement).value.trim() === '';
  log().setAttribute('aria-busy', String(live !== undefined));
  for (const button of log().querySelectorAll<HTMLButtonElement>('.edit, .regenerate')) button.disabled = live !== undefined;
  for (const branches of log().querySelectorAll<HTMLElement>('.branches')) branches.inert = live !== undefined;
  document.title = talk.conversation.title ? `${talk.conversation.title} · Kinglet` : 'Kinglet';
  setText('model-name', model ? nameOf(engine.key) : loading ? nameOf(loading.key) : 'Choose a model');
  document.body.dataset.state = live ? 'answering' : loading ? 'loading' : ready ? 'ready' : 'idle';
}

/** A button that scrolls to the end, shown while the end is out of view. */
export function setUpLog(): void {
  const down = iconButton('down', 'Scroll to the end', 'to-end', toEnd);
  down.hidden = true;
  byId('composer', HTMLElement).prepend(down);
  log().addEventListener('scroll', () => (down.hidden = atEnd()));
  byId('welcome-choose', HTMLElement).onclick = () => byId('model', HTMLElement).click();
}
