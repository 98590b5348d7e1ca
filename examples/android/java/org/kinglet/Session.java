package org.kinglet;

import java.util.concurrent.atomic.AtomicLong;

/** The state of a conversation. Use it from one background thread at a time; only {@link #cancel} may be called from any thread. */
public final class Session implements AutoCloseable {
    private final AtomicLong handle;

    Session(long handle) {
        this.handle = new AtomicLong(handle);
    }

    /**
     * Starts an answer to all messages so far, a JSON list of {@link Text#message}. Reuses what was computed for earlier ones.
     * If {@code seed} is below 0, each call uses a new one; if {@code maxTokens} is 0, the model's setting is used.
     */
    public Answer chat(String messages, int maxTokens, long seed) {
        return new Answer(Native.chat(handle.get(), Text.encode(messages), maxTokens, seed));
    }

    /** Ends the running call, within one step, with a {@link KingletException} whose status is {@code CANCELLED}. */
    public void cancel() {
        Native.sessionCancel(handle.get());
    }

    @Override
    public void close() {
        Native.sessionDelete(handle.getAndSet(0));
    }
}
