package org.kinglet;

/** A call that failed: libkinglet's message and its {@code kinglet_status}. */
public final class KingletException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** The status of an answer that was ended by {@link Session#cancel}. */
    public static final int CANCELLED = -6;

    /** A {@code kinglet_status} from kinglet.h. */
    public final int status;

    /** Called by kinglet_jni.c. */
    KingletException(byte[] message, int status) {
        super(new String(message, java.nio.charset.StandardCharsets.UTF_8));
        this.status = status;
    }
}
