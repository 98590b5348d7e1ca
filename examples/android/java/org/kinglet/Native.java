package org.kinglet;

/** The functions of kinglet_jni.c. Handles are numbers; text crosses as UTF-8 bytes, because JNI's own strings are a dialect of it. */
final class Native {
    static {
        System.loadLibrary("kinglet_jni");
        check();
    }

    private Native() {}

    /** Throws if libkinglet has another interface than the one that kinglet_jni.c was compiled for. */
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

    /** {@code seed} below 0 is a new one each time; {@code maxTokens} 0 is the model's. */
    static native long chat(long session, byte[] messages, int maxTokens, long seed);

    /** The next text, empty while characters are incomplete; null after the last. */
    static native byte[] next(long generation);

    static native double stat(long generation, int stat);

    static native void generationDelete(long generation);
}
