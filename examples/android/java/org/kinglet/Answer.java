package org.kinglet;

import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicLong;

/** An answer that is being generated. */
public final class Answer implements AutoCloseable {
    private static final int STAT_REUSED_TOKENS = 1;
    private static final int STAT_DECODE_RATE = 6;
    private final AtomicLong handle;

    Answer(long handle) {
        this.handle = new AtomicLong(handle);
    }

    /** Blocks until the next piece of text and returns it: empty while a character is incomplete, null after the last. */
    public String next() {
        byte[] text = Native.next(handle.get());
        return text == null ? null : new String(text, StandardCharsets.UTF_8);
    }

    /** How many prompt tokens were reused from the session's state. */
    public long reusedTokens() {
        return (long) Native.stat(handle.get(), STAT_REUSED_TOKENS);
    }

    /** Generation speed. */
    public double tokensPerSecond() {
        return Native.stat(handle.get(), STAT_DECODE_RATE);
    }

    @Override
    public void close() {
        Native.generationDelete(handle.getAndSet(0));
    }
}
