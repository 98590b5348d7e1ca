package org.kinglet;

import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicLong;

/** An open model. Thread-safe. Opening takes milliseconds, because weights are memory-mapped. */
public final class Model implements AutoCloseable {
    private final AtomicLong handle;

    private Model(long handle) {
        this.handle = new AtomicLong(handle);
    }

    /** Opens the model in a folder. {@code backend} is "auto", "cpu" or the name of a GPU backend. */
    public static Model open(String path, String backend) {
        return new Model(Native.modelOpen(Text.encode(path), Text.encode(backend)));
    }

    /**
     * A model whose files are parts of other files, like assets in an APK. On Android, {@code AssetManager.openFd} says where
     * an asset that is stored uncompressed ({@code noCompress} in build.gradle) lies: use the descriptor
     * {@code getParcelFileDescriptor().getFd()}, {@code getStartOffset()} and {@code getLength()}.
     */
    public static final class Files implements AutoCloseable {
        private final AtomicLong handle = new AtomicLong(Native.filesCreate());

        /** Adds a file; {@code name} is its name in a model folder. The descriptor may be closed afterwards. */
        public Files add(String name, int descriptor, long offset, long length) {
            Native.filesAdd(handle.get(), Text.encode(name), descriptor, offset, length);
            return this;
        }

        /** Opens the model that consists of these files. */
        public Model open(String backend) {
            return new Model(Native.modelOpenFiles(handle.get(), Text.encode(backend)));
        }

        @Override
        public void close() {
            Native.filesDelete(handle.getAndSet(0));
        }
    }

    /** Describes the model and what it runs on. */
    public String description() {
        return new String(Native.modelDescription(handle.get()), StandardCharsets.UTF_8);
    }

    /** Creates a session without tokens. */
    public Session session() {
        return new Session(Native.sessionCreate(handle.get()));
    }

    /** Sessions of the model stay usable. */
    @Override
    public void close() {
        Native.modelDelete(handle.getAndSet(0));
    }
}
