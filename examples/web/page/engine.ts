// The running model, and the one being loaded to replace it. If a model can't be loaded, the running one stays.

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
  /** Called when the running or loading model has changed. */
  onChange: () => void = () => undefined;
  /** Called when another model runs, to bring its session to the conversation's state. */
  onLoaded: () => Promise<void> = async () => undefined;
  /** Called when a model is loaded and everything is ready. */
  onReady: () => void = () => undefined;
  model: Model | undefined;
  /** Key of the running model: its address, or a key of `names.ts`; empty for none. */
  key = '';
  session: Session | undefined;
  loading: Loading | undefined;
  /** Resolves when nothing is being answered. */
  busy: Promise<unknown> | undefined;

  get ready(): boolean {
    return this.session !== undefined && this.model?.info.chat === true;
  }

  /** Loads a model to replace the running one. Returns whether it succeeded. */
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
      // Let the other model finish its answer.
      if (this.busy) {
        setText('status-text', `${nameOf(key)} is loaded and starts after this answer`);
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
    const prevented = `${nameOf(key)} could not be loaded${this.model ? `; ${nameOf(this.key)} is still running` : ''}: `;
    const scarce = error instanceof KingletError && ['memory', 'device-memory'].includes(error.code);
    if (this.model && scarce) {
      // Two models take more memory than one.
      const text = `Unload ${nameOf(this.key)} and retry`;
      complain(error, { text, act: () => {
        this.unload();
        again();
      } }, prevented);
    } else complain(error, { text: 'Retry', act: again }, prevented);
  }

  /** Frees the running model. */
  unload(): void {
    this.session = undefined;
    this.model?.dispose();
    this.model = undefined;
    this.key = '';
  }

  /** Reloads the model after its worker or its device has failed. */
  async recover(why: KingletError): Promise<void> {
    const { key } = this;
    this.unload();
    this.onChange();
    if (isLocal(key)) complain(`${why.message} Choose its files again to continue.`);
    else {
      // Keep the reason visible until it runs again.
      complain(`${why.message} Reloading it.`);
      if (await this.#load(key, key, {})) complain(`${why.message} It was reloaded.`);
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
    // The next visit starts with the first model.
  }
}

/** Shows in the statistics line what the model holds, and the cost of the last answer. */
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
  if (ended?.speculation) parts.push(`${ended.speculation.accepted} of ${ended.speculation.drafted} drafts accepted`);
  parts.push(`memory ${megabytes(stats.wasmBytes)}`);
  if (stats.deviceBytes) parts.push(`GPU memory ${megabytes(stats.deviceBytes)}`);
  if (state) parts.push(`state ${megabytes(state.stateBytes)}`);
  statistics(parts);
}

/** Shows figures in the statistics line. */
export function statistics(parts: string[]): void {
  const line = byId('stats', HTMLElement);
  line.replaceChildren(...parts.flatMap((part, index) => [...(index > 0 ? [' · '] : []), make('span', '', part)]));
}
