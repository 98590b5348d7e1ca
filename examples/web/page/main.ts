// The page: a chat with a model that runs in the browser. Its modules:
//
// - `tree.ts`: a conversation as data. `exchange.ts`: as text. `conversations.ts`, `journal.ts`: where it is kept.
// - `engine.ts`: the model that runs. `talk.ts`: the conversation that is open, and its answers.
// - `log.ts`, `message.ts`, `markdown.ts`, `sidebar.ts`, `picker.ts`, `settings.ts`, `menu.ts`, `notice.ts`, `dom.ts`: what is seen.

import { Conversations } from './conversations.js';
import { byId } from './dom.js';
import { engine } from './engine.js';
import { placeIcons } from './icons.js';
import * as journal from './journal.js';
import { newAnswer, render, setUpLog } from './log.js';
import { DEMOS, isLocal } from './names.js';
import { complain, quiet } from './notice.js';
import { closeOutside, setUpPicker } from './picker.js';
import { setUpSettings } from './settings.js';
import { drawer, drawerIsOpen, listConversations, setUpSidebar } from './sidebar.js';
import { lastOpen, talk } from './talk.js';

function setUpComposer(): void {
  const input = byId('input', HTMLTextAreaElement);
  const written = () => {
    // One line per line of text.
    input.style.height = 'auto';
    input.style.height = `${input.scrollHeight}px`;
    const { conversation } = talk;
    journal.keepDraft(conversation.turns.length > 0 ? conversation.id : '', input.value);
    byId('send', HTMLButtonElement).disabled = (!engine.ready && !engine.loading) || input.value.trim() === '';
  };
  input.oninput = written;
  input.onkeydown = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    talk.send();
  };
  byId('form', HTMLFormElement).onsubmit = (event) => {
    event.preventDefault();
    talk.send();
  };
  byId('stop', HTMLElement).onclick = () => talk.stop();
}

function setUp(): void {
  placeIcons();
  setUpComposer();
  setUpPicker();
  setUpSidebar();
  setUpLog();
  setUpSettings((system) => talk.tell(system));
  const settings = byId('settings', HTMLDialogElement);
  byId('open-settings', HTMLElement).onclick = () => settings.showModal();
  closeOutside(settings);
  byId('cancel', HTMLElement).onclick = () => engine.loading?.abort.abort();
  byId('alert-close', HTMLElement).onclick = quiet;
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || document.querySelector('dialog[open], .menu')) return;
    if (drawerIsOpen()) drawer(false);
    else talk.stop();
  });
}

function refresh(): void {
  render();
  listConversations();
}

async function start(): Promise<void> {
  setUp();
  const conversations = await Conversations.open();
  talk.conversations = conversations;
  talk.newAnswer = newAnswer;
  talk.onChange = refresh;
  conversations.onChange = (changed) => void talk.changedElsewhere(changed).catch(complain);
  engine.onChange = refresh;
  engine.onLoaded = () => talk.resume();
  engine.onReady = () => talk.goOn();
  const first = new URL(DEMOS[0]?.url ?? '', document.baseURI).href;
  await talk.open(conversations.get(lastOpen()) ?? talk.fresh());
  const own = talk.conversation.model;
  const url = (!isLocal(own) && URL.canParse(own) && own) || lastModel() || first;
  await engine.load(url, url);
}

/** The model that was loaded last. */
function lastModel(): string | undefined {
  try {
    const url = localStorage.getItem('model') ?? '';
    return URL.canParse(url) ? url : undefined;
  } catch {
    return undefined;
  }
}

void start().catch(complain);
