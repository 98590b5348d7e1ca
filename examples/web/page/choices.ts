// What the person has chosen, kept between visits: theme, backend, how answers are generated.

import { byId } from './view.js';

/** The options of the dialog. */
export interface Choices {
  backend: 'auto' | 'cpu' | 'webgpu';
  temperature: number | undefined;
  maxTokens: number | undefined;
  seed: number | undefined;
}

const FIELDS = ['backend', 'temperature', 'max-tokens', 'seed'];

function field(id: string): HTMLInputElement | HTMLSelectElement {
  const element = byId(id, HTMLElement);
  if (element instanceof HTMLInputElement || element instanceof HTMLSelectElement) return element;
  throw new Error(`#${id} is no field`);
}

/** What is chosen now. A field that is empty or says what can't be leaves it to the model. */
export function choices(): Choices {
  const number = (id: string) => {
    const from = field(id);
    return from.value !== '' && from.checkValidity() ? Number(from.value) : undefined;
  };
  const backend = field('backend').value;
  return {
    backend: backend === 'cpu' || backend === 'webgpu' ? backend : 'auto',
    temperature: number('temperature'),
    maxTokens: number('max-tokens'),
    seed: number('seed'),
  };
}

/** Brings back what was chosen, and keeps what will be. */
export function setUpChoices(): void {
  for (const id of FIELDS) {
    const element = field(id);
    element.value = localStorage.getItem(`choice.${id}`) ?? element.value;
    element.addEventListener('change', () => localStorage.setItem(`choice.${id}`, element.value));
  }
  const root = document.documentElement;
  const apply = (theme: string | null) => {
    if (theme) root.dataset.theme = theme;
  };
  apply(localStorage.getItem('theme'));
  byId('theme', HTMLElement).onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    const theme = dark ? 'light' : 'dark';
    localStorage.setItem('theme', theme);
    apply(theme);
  };
}
