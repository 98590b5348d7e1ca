// The page: a chat with a model that runs in the browser.

import { Conversations } from './conversations.js';
import type { Conversation } from './conversations.js';
import { KingletError, Model, storage } from './kinglet/index.js';
import type { Answer, ChatOptions, ChatStream, LoadOptions, ModelSource, Progress, Session } from './kinglet/index.js';
import { choices, setUpChoices } from './choices.js';
import { byId, megabytes, message, setText, show } from './view.js';
import type { Shown } from './view.js';

/** Models that are served beside the page. */
const DEMOS = [
  { url: 'models/hybrid/', name: 'Storyteller, 15M', text: 'Mamba-2, attention and experts; 30 MB. Tells stories for children.' },
  { url: 'models/xlstm/', name: 'Storyteller xLSTM, 5M', text: 'mLSTM alone: its state never grows; 10 MB.' },
];

let conversations: Conversations;
let conversation: Conversation;
let model: Model | undefined;
let modelName = '';
let session: Session | undefined;
let stream: ChatStream | undefined;
let loading: AbortController | undefined;
/** How an own model is called that can't be loaded again by itself. */
const LOCAL = 'files:';

const log = byId('log', HTMLElement);
const input = byId('input', HTMLTextAreaElement);

/** Shows an error until it is dismissed. */
function complain(error: unknown): void {
  if (error instanceof KingletError && error.code === 'aborted') return;
  const text = error instanceof Error ? error.message : String(error);
  setText('alert-text', text);
  byId('alert', HTMLElement).dataset.code = error instanceof KingletError ? error.code : '';
  show('alert', true);
}

function nameOf(url: string): string {
  const demo = DEMOS.find((demo) => new URL(demo.url, document.baseURI).href === url);
  if (demo) return demo.name;
  if (url.startsWith(LOCAL)) return url.slice(LOCAL.length);
  const parts = new URL(url).pathname.split('/').filter((part) => part && !/^(resolve|tree|main)$/.test(part));
  return parts.slice(-2).join('/') || url;
}

/** Loads a model in place of the one that is there. Gives whether it did. */
async function load(source: ModelSource, url: string, options: LoadOptions = {}): Promise<boolean> {
  loading?.abort();
  stream?.stop();
  await stream?.answer.catch(() => undefined);
  session = undefined;
  model?.dispose();
  model = undefined;
  modelName = url;
  const abort = new AbortController();
  loading = abort;
  show('alert', false);
  show('status', true);
  setText('model-name', nameOf(url));
  progress({ phase: 'download', file: '', loaded: 0, total: undefined });
  refresh();
  try {
    const loaded = await Model.load(source, { signal: abort.signal, onProgress: progress, backend: choices().backend, ...options });
    if (loading !== abort) {
      loaded.dispose();
      return false;
    }
    model = loaded;
    if (loaded.info.notices.length > 0) complain(loaded.info.notices.join(' '));
    if (!loaded.info.chat) complain(`${nameOf(url)} has no chat template: it can't chat`);
    if (!url.startsWith(LOCAL)) localStorage.setItem('model', url);
    await resume();
    return true;
  } catch (error) {
    if (loading === abort) complain(error);
    return false;
  } finally {
    if (loading === abort) {
      loading = undefined;
      show('status', false);
    }
    refresh();
    void report();
  }
}

function progress({ phase, file, loaded, total }: Progress): void {
  const doing = { download: 'Loading', verify: 'Checking', open: 'Opening' }[phase];
  const amount = total ? `${megabytes(loaded)} of ${megabytes(total)}` : loaded ? megabytes(loaded) : '';
  setText('status-text', `${doing} ${file || nameOf(modelName)}${amount && ` · ${amount}`}`);
  const bar = byId('status-bar', HTMLProgressElement);
  if (total) bar.value = loaded / total;
  else bar.removeAttribute('value');
}

/** Brings the session to where the conversation is, from what was kept of it. */
async function resume(): Promise<void> {
  const current = model;
  if (!current) return;
  session = undefined;
  refresh();
  const kept = conversation.model === modelName ? conversation.id : undefined;
  try {
    // What was before the last answer is there for another one.
    const before = kept && await conversations.state(kept, 'before');
    if (before) await (await current.restoreSession(before)).dispose();
    const end = kept && await conversations.state(kept, 'end');
    if (end) session = await current.restoreSession(end);
  } catch (error) {
    // Another version of the model: the messages are there, the state is computed anew.
    if (!(error instanceof KingletError) || error.code !== 'saved-state') throw error;
  }
  session ??= await current.session();
}

function options(): ChatOptions {
  const { temperature, maxTokens, seed } = choices();
  return {
    ...(temperature !== undefined && { temperature }),
    ...(maxTokens !== undefined && { maxTokens }),
    ...(seed !== undefined && { seed }),
  };
}

/** Lets the model answer the conversation as it is. */
async function answer(): Promise<void> {
  if (!session || !model || stream) return;
  const current = conversation;
  const shown = addMessage('assistant', '', current.messages.length);
  shown.busy(true);
  let text = '';
  const running = session.chat(current.messages, {
    ...options(),
    onPrompt: ({ done, total }) => {
      if (total > 64) setText('stats', `Reading ${done} of ${total} tokens…`);
    },
  });
  stream = running;
  refresh();
  try {
    for await (const token of running) {
      text += token.text;
      shown.setText(text);
    }
    const ended = await running.answer;
    current.messages.push({ role: 'assistant', content: ended.text });
    const remark = { stopped: 'stopped', 'max-tokens': 'cut off: the longest answer is reached', 'context-full': 'cut off: the context is full' };
    shown.remark(remark[ended.reason as keyof typeof remark] ?? '');
    setText('said', `Answer: ${ended.text}`);
    await Promise.all([keep(current).then(answered), report(ended)]);
  } catch (error) {
    if (text) current.messages.push({ role: 'assistant', content: text });
    else shown.remove();
    complain(error);
    // What was said is not lost with the worker; the state is that after the last answer, or computed anew.
    current.model ||= modelName;
    await conversations.keep(current).then(text ? answered : undefined).catch(complain);
    listConversations();
    if (error instanceof KingletError && ['crashed', 'memory', 'device-lost'].includes(error.code)) await recover(error);
  } finally {
    shown.busy(false);
    stream = undefined;
    refresh();
    input.focus();
  }
}

/** The last question has its answer, in a file. */
function answered(): void {
  localStorage.removeItem(ASKED);
}

/** Loads the model again after its worker or its device has ended; the conversation goes on from what was kept. */
async function recover(why: KingletError): Promise<void> {
  const url = modelName;
  model?.dispose();
  model = undefined;
  session = undefined;
  if (url.startsWith(LOCAL)) return;
  if (await load(url, url)) complain(`${why.message} It was loaded again.`);
}

/** Keeps the conversation and its state. */
async function keep(kept: Conversation): Promise<void> {
  try {
    kept.model = modelName;
    const states: { end?: ArrayBuffer; before?: ArrayBuffer } = {};
    if (session) {
      states.end = await session.save();
      const prompt = await session.lastPrompt();
      if (prompt) {
        states.before = await prompt.save();
        await prompt.dispose();
      }
    }
    await conversations.keep(kept, states);
  } catch (error) {
    if (error instanceof DOMException && error.name === 'QuotaExceededError') {
      complain("The browser's storage is full: this conversation will be gone after a reload. Models that are kept can be deleted under Model.");
    } else complain(error);
  }
  listConversations();
}

async function report(ended?: Answer): Promise<void> {
  if (!model) return setText('stats', '');
  const [stats, state] = await Promise.all([model.stats(), session?.stats()]);
  const parts = [model.info.description];
  if (ended) {
    parts.unshift(
      `${ended.tokensPerSecond.toFixed(1)} tokens/s`,
      `${ended.ids.length} tokens`,
      `prompt ${ended.promptTokens} (${ended.reusedTokens} reused) in ${ended.promptSeconds.toFixed(2)} s`,
    );
  }
  parts.push(`memory ${megabytes(stats.wasmBytes)}`);
  if (stats.deviceBytes) parts.push(`graphics memory ${megabytes(stats.deviceBytes)}`);
  if (state) parts.push(`state ${megabytes(state.stateBytes)}`);
  setText('stats', parts.join(' · '));
}

/** Puts a message into the log. `index` is its place in the conversation. */
function addMessage(role: string, text: string, index: number): Shown {
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const shown = message(role, text, {
    regenerate: role === 'assistant' ? () => void regenerate(index) : undefined,
    copy: () => void navigator.clipboard?.writeText(conversation.messages[index]?.content ?? ''),
    follow: () => {
      if (log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
    },
  });
  log.append(shown.element);
  if (near) log.scrollTop = log.scrollHeight;
  return shown;
}

/** Another answer in place of message `index`, from the state before it. */
async function regenerate(index: number): Promise<void> {
  if (stream || !session) return;
  conversation.messages.length = index;
  showConversation();
  await answer();
}

function showConversation(): void {
  log.replaceChildren();
  conversation.messages.forEach(({ role, content }, index) => addMessage(role, content, index));
  log.scrollTop = log.scrollHeight;
  listConversations();
  refresh();
}

/** Under this name the question is kept that has no answer yet. Files are written in the background, and a page may go away before. */
const ASKED = 'asked';

/** Gives back a question of the conversation `id` whose answer never came, as when the page went away: it can be asked again. */
function giveBack(id: string): void {
  const [asked, text] = JSON.parse(localStorage.getItem(ASKED) ?? '[]') as string[];
  const last = conversation.messages.at(-1);
  const question = last?.role === 'user' ? conversation.messages.pop()?.content : asked === id ? text : undefined;
  if (!question) return;
  input.value ||= question;
  fit();
}

async function open(chosen: Conversation): Promise<void> {
  stream?.stop();
  await stream?.answer.catch(() => undefined);
  conversation = chosen;
  localStorage.setItem('conversation', chosen.id);
  giveBack(chosen.id);
  showConversation();
  menu(false);
  if (chosen.model && chosen.model !== modelName && !chosen.model.startsWith(LOCAL)) await load(chosen.model, chosen.model);
  else {
    try {
      await resume();
    } catch (error) {
      complain(error);
    }
  }
  refresh();
  void report();
  input.focus();
}

function listConversations(): void {
  const list = byId('list', HTMLElement);
  const items = conversations.list().map((item) => {
    const row = document.createElement('li');
    const button = document.createElement('button');
    button.textContent = item.title || 'Untitled';
    button.title = item.title;
    button.setAttribute('aria-current', String(item.id === conversation.id));
    button.onclick = () => void open(item);
    const remove = document.createElement('button');
    remove.className = 'icon';
    remove.textContent = '✕';
    remove.setAttribute('aria-label', `Delete “${item.title}”`);
    remove.onclick = async () => {
      await conversations.remove(item.id);
      if (item.id === conversation.id) await open(conversations.begin(modelName));
      else listConversations();
    };
    row.append(button, remove);
    return row;
  });
  list.replaceChildren(...items);
}

function refresh(): void {
  const ready = session !== undefined && model?.info.chat === true;
  show('stop', stream !== undefined);
  show('send', stream === undefined);
  byId('send', HTMLButtonElement).disabled = !ready;
  log.setAttribute('aria-busy', String(stream !== undefined));
  document.body.dataset.state = stream ? 'answering' : ready ? 'ready' : loading ? 'loading' : 'idle';
}

/** Shows or hides the conversations, where there is no room for them beside the others. */
function menu(open: boolean): void {
  const button = byId('menu', HTMLElement);
  const was = button.getAttribute('aria-expanded') === 'true';
  byId('side', HTMLElement).classList.toggle('open', open);
  button.setAttribute('aria-expanded', String(open));
  // To what has come, and back to where it came from.
  if (open) byId('new', HTMLElement).focus();
  else if (was) button.focus();
}

async function send(): Promise<void> {
  const text = input.value.trim();
  if (!text || stream || !session) return;
  show('alert', false);
  input.value = '';
  fit();
  conversation.messages.push({ role: 'user', content: text });
  localStorage.setItem('conversation', conversation.id);
  addMessage('user', text, conversation.messages.length - 1);
  log.scrollTop = log.scrollHeight;
  // What was typed outlives the page, whatever becomes of the answer.
  localStorage.setItem(ASKED, JSON.stringify([conversation.id, text]));
  conversation.model ||= modelName;
  void conversations.keep(conversation).catch(complain);
  await answer();
}

/** As many lines as there are. */
function fit(): void {
  input.style.height = 'auto';
  input.style.height = `${input.scrollHeight + 2}px`;
}

async function listStored(): Promise<void> {
  const list = byId('stored', HTMLElement);
  const stored = await storage.list();
  list.replaceChildren(...stored.map(({ url, bytes }) => {
    const row = document.createElement('li');
    const name = document.createElement('span');
    name.textContent = `${nameOf(url)} · ${megabytes(bytes)}`;
    const use = document.createElement('button');
    use.type = 'button';
    use.textContent = 'Use';
    use.onclick = () => choose(url, url);
    const remove = document.createElement('button');
    remove.type = 'button';
    remove.textContent = 'Delete';
    remove.setAttribute('aria-label', `Delete ${nameOf(url)}`);
    remove.onclick = async () => {
      await storage.remove(url);
      await listStored();
    };
    row.append(name, use, remove);
    return row;
  }));
  if (stored.length === 0) list.textContent = 'Nothing yet.';
}

function choose(source: ModelSource, url: string): void {
  byId('picker', HTMLDialogElement).close();
  void load(source, url);
}

function setUp(): void {
  const picker = byId('picker', HTMLDialogElement);
  byId('model', HTMLElement).onclick = () => {
    void listStored();
    picker.showModal();
  };
  for (const { url, name, text } of DEMOS) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = name;
    const small = document.createElement('small');
    small.textContent = text;
    button.append(small);
    const href = new URL(url, document.baseURI).href;
    button.onclick = () => choose(href, href);
    byId('demos', HTMLElement).append(button);
  }
  byId('load-url', HTMLElement).onclick = () => {
    const field = byId('url', HTMLInputElement);
    let href: string;
    try {
      href = new URL(field.value.trim(), document.baseURI).href;
      if (!field.value.trim()) throw new TypeError();
    } catch {
      field.setCustomValidity('This is no address.');
      field.reportValidity();
      field.setCustomValidity('');
      return;
    }
    choose(href, href);
  };
  for (const kind of ['folder', 'files']) {
    const field = byId(kind, HTMLInputElement);
    byId(`load-${kind}`, HTMLElement).onclick = () => field.click();
    field.onchange = () => {
      const files = [...field.files ?? []];
      const [first] = files;
      field.value = '';
      if (!first) return;
      choose(files, LOCAL + (first.webkitRelativePath.split('/')[0] || first.name));
    };
  }
  byId('form', HTMLFormElement).onsubmit = (event) => {
    event.preventDefault();
    void send();
  };
  input.oninput = fit;
  input.onkeydown = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    void send();
  };
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || picker.open) return;
    stream?.stop();
    menu(false);
  });
  byId('stop', HTMLElement).onclick = () => stream?.stop();
  byId('cancel', HTMLElement).onclick = () => loading?.abort();
  byId('alert-close', HTMLElement).onclick = () => show('alert', false);
  byId('new', HTMLElement).onclick = () => void open(conversations.begin(modelName));
  byId('menu', HTMLElement).onclick = () => menu(!byId('side', HTMLElement).classList.contains('open'));
  setUpChoices();
}

async function start(): Promise<void> {
  setUp();
  conversations = await Conversations.open();
  const last = localStorage.getItem('conversation');
  conversation = (last && conversations.get(last)) || conversations.begin('');
  const first = new URL(DEMOS[0]?.url ?? '', document.baseURI).href;
  const own = conversation.model.startsWith(LOCAL) ? '' : conversation.model;
  const url = own || localStorage.getItem('model') || first;
  giveBack(last ?? '');
  showConversation();
  if (!await load(url, url) && url !== first) setText('stats', 'Choose another model above.');
}

void start().catch(complain);
