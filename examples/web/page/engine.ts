// The model that runs, and the one that is being loaded to take its place. A model that can't be loaded leaves the other one as it is.

import { KingletError, Model } from './kinglet/index.js';
import type { Answer, LoadOptions, ModelSource, Progress, Session } from './kinglet/index.js';
import { byId, make, megabytes, setText, show } from './dom.js';
import { nameOf, isLocal } from './names.js';
import { complain, quiet } from './notice.js';
import { backend } from './settings.js';

interface Loading {
  key: string;
  abort: AbortController;
}

class Engine {
  /** Called when what runs or is loaded has changed. */
  onChange: () => void = () => undefined;
  /** Called when another model runs: to bring its session to where the conversation is. */
  onLoaded: () => Promise<void> = async () => undefined;
  /** Called when a model has been loaded, and everything is in place. */
  onReady: () => void = () => undefined;
  model: Model | undefined;
  /** Which model runs: its address, or a key of `names.ts`; empty for none. */
  key = '';
  session: Session | undefined;
  loading: Loading | undefined;
  /** Ends when nothing is being answered. */
  busy: Promise<unknown> | undefined;

  get ready(): boolean {
    return this.session !== undefined && this.model?.info.chat === true;
  }

  /** Loads a model in place of the one that runs. Gives whether it did. */
  async load(source: ModelSource, key: string, options: LoadOptions = {}): Promise<boolean> {
    quiet();
    return await this.#load(source, key, options);
  }

  async #load(source: ModelSource, key: string, options: LoadOptions): Promise<boolean> {
    this.loading?.abort.abort();
    const abort = new AbortController();
    this.loading = { key, abort };
    show('status', true);
    this.#progress({ phase: 'download', file: '', loaded: 0, total: undefined });
    this.onChange();
    let done = false;
    try {
      const onProgress = (progress: Progress) => this.loading?.abort === abort && this.#progress(progress);
      const loaded = await Model.load(source, { signal: abort.signal, onProgress, backend: backend(), ...options });
      // What the other one is saying it may say to the end.
      if (this.busy) {
        setText('status-text', `${nameOf(key)} is loaded, and begins after this answer`);
        await this.busy;
      }
      if (this.loading?.abort !== abort || abort.signal.aborted) {
        loaded.dispose();
        return false;
      }
      this.unload();
      this.model = loaded;
      this.key = key;
      if (loaded.info.notices.length > 0) complain(loaded.info.notices.join(' '));
      if (!loaded.info.chat) complain(`${nameOf(key)} has no chat template: it can't chat`);
      if (!isLocal(key)) remember(key);
      await this.onLoaded();
      done = true;
    } catch (error) {
      if (this.loading?.abort === abort) this.#failed(error, source, key, options);
    } finally {
      if (this.loading?.abort === abort) {
        this.loading = undefined;
        show('status', false);
      }
      this.onChange();
      void report();
    }
    if (done) this.onReady();
    return done;
  }

  #failed(error: unknown, source: ModelSource, key: string, options: LoadOptions): void {
    const again = () => void this.load(source, key, options);
    const prevented = `${nameOf(key)} could not be loaded${this.model ? `; ${nameOf(this.key)} still runs` : ''}: `;
    const scarce = error instanceof KingletError && ['memory', 'device-memory'].includes(error.code);
    if (this.model && scarce) {
      // Two take more memory than one.
      const text = `Unload ${nameOf(this.key)} and retry`;
      complain(error, { text, act: () => {
        this.unload();
        again();
      } }, prevented);
    } else complain(error, { text: 'Retry', act: again }, prevented);
  }

  /** Frees the model that runs. */
  unload(): void {
    this.session = undefined;
    this.model?.dispose();
    this.model = undefined;
    this.key = '';
  }

  /** Loads the model again after its worker or its device has ended. */
  async recover(why: KingletError): Promise<void> {
    const { key } = this;
    this.unload();
    this.onChange();
    if (isLocal(key)) complain(`${why.message} Choose its files again to go on.`);
    else {
      // Why is there to be read until it runs again.
      complain(`${why.message} It is being loaded again.`);
      if (await this.#load(key, key, {})) complain(`${why.message} It was loaded again.`);
    }
  }

  #progress({ phase, file, loaded, total }: Progress): void {
    const doing = { download: 'Loading', verify: 'Checking', open: 'Opening' }[phase];
    const name = nameOf(this.loading?.key ?? '');
    const amount = total ? `${megabytes(loaded)} of ${megabytes(total)}` : loaded ? megabytes(loaded) : '';
    setText('status-text', `${doing} ${name}`);
    setText('status-detail', [file, amount].filter(Boolean).join(' · '));
    const bar = byId('status-bar', HTMLProgressElement);
    if (total) bar.value = loaded / total;
    else bar.removeAttribute('value');
  }
}

export const engine = new Engine();

function remember(key: string): void {
  try {
    localStorage.setItem('model', key);
  } catch {
    // The next visit begins with the first one.
  }
}

/** Says in the statistics' line what the model holds, and what the last answer took. */
export async function report(ended?: Answer): Promise<void> {
  const { model, session } = engine;
  if (!model) return statistics([]);
  const [stats, state] = await Promise.all([model.stats(), session?.stats()]).catch(() => []);
  if (!stats || engine.model !== model) return;
  const parts = [model.info.description];
  if (ended) {
    parts.unshift(
      `${ended.tokensPerSecond.toFixed(1)} tokens/s`,
      `${ended.ids.length} tokens`,
      `prompt ${ended.promptTokens} (${ended.reusedTokens} reused) in ${ended.promptSeconds.toFixed(2)} s`,
    );
  }
  if (ended?.speculation) parts.push(`${ended.speculation.accepted} of ${ended.speculation.drafted} guesses right`);
  parts.push(`memory ${megabytes(stats.wasmBytes)}`);
  if (stats.deviceBytes) parts.push(`graphics memory ${megabytes(stats.deviceBytes)}`);
  if (state) parts.push(`state ${megabytes(state.stateBytes)}`);
  statistics(parts);
}

/** Shows figures in the line that is kept for them. */
export function statistics(parts: string[]): void {
  const line = byId('stats', HTMLElement);
  line.replaceChildren(...parts.flatMap((part, index) => [...(index > 0 ? [' · '] : []), make('span', '', part)]));
}
