package org.kinglet;

/**
 * The functions of kinglet_jni.c. Handles are passed as numbers and text as UTF-8 bytes, because JNI's own strings use
 * modified UTF-8.
 */
final class Native {
    static {
        System.loadLibrary("kinglet_jni");
        check();
    }

    private Native() {}

    /** Throws if libkinglet's ABI is not the one that kinglet_jni.c was compiled for. */
    private static native void check();

    static native long filesCreate();

    static native void filesAdd(long files, byte[] name, int descriptor, long offset, long length);

    static native void filesDelete(long files);

    static native long modelOpen(byte[] path, byte[] backend);

    static native long modelOpenFiles(long files, byte[] backend);

    static native byte[] modelDescription(long model);

    static native void modelDelete(long model);

    static native long sessionCreate(long model);

    static native void sessionCancel(long session);

    static native void sessionDelete(long session);

    /** If {@code seed} is below 0, each call uses a new one; if {@code maxTokens} is 0, the model's setting is used. */
    static native long chat(long session, byte[] messages, int maxTokens, long seed);

    /** The next piece of text: empty while a character is incomplete, null after the last. */
    static native byte[] next(long generation);

    static native double stat(long generation, int stat);

    static native void generationDelete(long generation);
}
