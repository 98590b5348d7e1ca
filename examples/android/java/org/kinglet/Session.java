package org.kinglet;

import java.util.concurrent.atomic.AtomicLong;

/** A conversation's state. One thread at a time, not the main one; {@link #cancel} from any. */
public final class Session implements AutoCloseable {
    private final AtomicLong handle;

    Session(long handle) {
        this.handle = new AtomicLong(handle);
    }

    /**
     * The answer to all messages so far, a JSON list of {@link Text#message}. What was computed before is used again. A
     * {@code seed} below 0 is a new one each time; {@code maxTokens} 0 is what the model says.
     */
    public Answer chat(String messages, int maxTokens, long seed) {
        return new Answer(Native.chat(handle.get(), Text.encode(messages), maxTokens, seed));
    }

    /** Ends what the session computes with a {@link KingletException} whose status is {@code CANCELLED}, within one step. */
    public void cancel() {
        Native.sessionCancel(handle.get());
    }

    @Override
    public void close() {
        Native.sessionDelete(handle.getAndSet(0));
    }
}
