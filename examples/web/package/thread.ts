// A CPU thread: enters its parent's memory and computes there until the model is freed.

import init, { runThread } from './threads/kinglet_web.js';
import type { ThreadStart } from './engines.js';

declare const self: DedicatedWorkerGlobalScope & { kingletPanic?: string };

self.onmessage = async ({ data: { module, memory, address, crashes } }: MessageEvent<ThreadStart>) => {
  try {
    await init({ module_or_path: module, memory });
    runThread(address);
  } catch (error) {
    const channel = new BroadcastChannel(crashes);
    channel.postMessage(self.kingletPanic ?? (error instanceof Error ? error.message : String(error)));
    channel.close();
  }
  self.close();
};
