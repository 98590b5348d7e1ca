// The user's settings, kept between visits and shared by all tabs: theme, backend, generation options.

import type { ChatOptions } from './kinglet/index.js';
import { byId } from './dom.js';

const NUMBERS = {
  temperature: 'temperature',
  'top-k': 'topK',
  'top-p': 'topP',
  'min-p': 'minP',
  'typical-p': 'typicalP',
  'repetition-penalty': 'repetitionPenalty',
  'presence-penalty': 'presencePenalty',
  'frequency-penalty': 'frequencyPenalty',
  'dry-multiplier': 'dryMultiplier',
  'xtc-probability': 'xtcProbability',
  'xtc-threshold': 'xtcThreshold',
  'max-tokens': 'maxTokens',
  speculate: 'speculate',
  seed: 'seed',
} as const;

const FIELDS = ['backend', 'stop-texts', ...Object.keys(NUMBERS)];

type Field = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;

function field(id: string): Field {
  const element = byId(id, HTMLElement);
  if (element instanceof HTMLInputElement || element instanceof HTMLSelectElement || element instanceof HTMLTextAreaElement) return element;
  throw new Error(`#${id} is not a field`);
}

/** The backend. */
export function backend(): 'auto' | 'cpu' | 'webgpu' {
  const { value } = field('backend');
  return value === 'cpu' || value === 'webgpu' ? value : 'auto';
}

/** Generation options. An empty or invalid field means the model's own setting. */
export function chatOptions(): ChatOptions {
  const options: ChatOptions = {};
  for (const [id, name] of Object.entries(NUMBERS)) {
    const from = field(id);
    if (from.value !== '' && from.checkValidity()) options[name] = Number(from.value);
  }
  const stop = stops(field('stop-texts').value);
  if (stop.length > 0) options.stop = stop;
  return options;
}

/** One text per line; `\n` is a line break, `\t` a tab. */
function stops(lines: string): string[] {
  const ESCAPES: Record<string, string> = { n: '\n', t: '\t', '\\': '\\' };
  return lines.split('\n').filter((line) => line !== '').map((line) => line.replace(/\\([nt\\])/g, (_, letter: string) => ESCAPES[letter] ?? ''));
}

/** The default system prompt of conversations. */
export function defaultSystem(): string {
  return stored('choice.system') ?? '';
}

function stored(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function store(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Then it lasts as long as the page.
  }
}

/** Shows the system prompt of the conversation. */
export function showSystem(text: string): void {
  field('system').value = text;
}

/** Restores and stores settings. `onSystem` gets the system prompt. */
export function setUpSettings(onSystem: (text: string) => void): void {
  const changed = () => {
    const given = Object.keys(NUMBERS).filter((id) => field(id).value !== '').length;
    byId('reset', HTMLButtonElement).disabled = given === 0 && field('stop-texts').value === '';
    for (const id of Object.keys(NUMBERS)) {
      const element = field(id);
      const wrong = element.checkValidity() ? '' : element.validationMessage;
      element.ariaInvalid = String(wrong !== '');
      byId(`${id}-wrong`, HTMLElement).textContent = wrong && `${wrong} The model's own setting is used.`;
    }
  };
  for (const id of FIELDS) {
    const element = field(id);
    if (id in NUMBERS) {
      const wrong = document.createElement('small');
      wrong.id = `${id}-wrong`;
      wrong.className = 'wrong';
      element.after(wrong);
      element.setAttribute('aria-describedby', wrong.id);
    }
    element.value = stored(`choice.${id}`) ?? element.value;
    // While typing: the layout below must not move when something else is clicked.
    for (const event of ['input', 'change']) {
      element.addEventListener(event, () => {
        store(`choice.${id}`, element.value);
        changed();
      });
    }
  }
  const system = field('system');
  system.addEventListener('input', () => {
    store('choice.system', system.value);
    onSystem(system.value);
  });
  byId('reset', HTMLElement).onclick = () => {
    for (const id of ['stop-texts', ...Object.keys(NUMBERS)]) {
      field(id).value = '';
      store(`choice.${id}`, '');
    }
    changed();
    byId('settings-title', HTMLElement).focus();
  };
  // Changed in another tab.
  addEventListener('storage', ({ key, newValue }) => {
    if (key === 'theme') applyTheme(newValue);
    const id = key?.startsWith('choice.') ? key.slice('choice.'.length) : '';
    if (!FIELDS.includes(id) || document.activeElement?.id === id) return;
    field(id).value = newValue ?? '';
    changed();
  });
  changed();
  applyTheme(stored('theme'));
  byId('theme', HTMLElement).onclick = () => {
    const { theme } = document.documentElement.dataset;
    const dark = theme ? theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    store('theme', dark ? 'light' : 'dark');
    applyTheme(dark ? 'light' : 'dark');
  };
}

function applyTheme(theme: string | null): void {
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
}
