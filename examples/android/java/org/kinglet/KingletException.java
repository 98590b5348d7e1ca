package org.kinglet;

/** A call that failed: libkinglet's message and its {@code kinglet_status}. */
public final class KingletException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** What {@link Session#cancel} makes of the answer that it cancels. */
    public static final int CANCELLED = -6;

    /** A {@code kinglet_status} of kinglet.h. */
    public final int status;

    /** Called by kinglet_jni.c. */
    KingletException(byte[] message, int status) {
        super(new String(message, java.nio.charset.StandardCharsets.UTF_8));
        this.status = status;
    }
}
