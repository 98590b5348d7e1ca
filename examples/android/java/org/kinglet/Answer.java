package org.kinglet;

import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicLong;

/** An answer as it is generated. */
public final class Answer implements AutoCloseable {
    private static final int STAT_REUSED_TOKENS = 1;
    private static final int STAT_DECODE_RATE = 6;
    private final AtomicLong handle;

    Answer(long handle) {
        this.handle = new AtomicLong(handle);
    }

    /** The next piece of text, empty while a character is incomplete; null after the last. Blocks until it is there. */
    public String next() {
        byte[] text = Native.next(handle.get());
        return text == null ? null : new String(text, StandardCharsets.UTF_8);
    }

    /** Tokens of the prompt whose state was there already. */
    public long reusedTokens() {
        return (long) Native.stat(handle.get(), STAT_REUSED_TOKENS);
    }

    /** Tokens of the answer in a second. */
    public double tokensPerSecond() {
        return Native.stat(handle.get(), STAT_DECODE_RATE);
    }

    @Override
    public void close() {
        Native.generationDelete(handle.getAndSet(0));
    }
}
