package org.kinglet;

import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicLong;

/** An open model. Any number of threads may use it; opening takes milliseconds, because weights are mapped. */
public final class Model implements AutoCloseable {
    private final AtomicLong handle;

    private Model(long handle) {
        this.handle = new AtomicLong(handle);
    }

    /** Opens the model in a folder. {@code backend} is "auto", "cpu" or a graphics card's. */
    public static Model open(String path, String backend) {
        return new Model(Native.modelOpen(Text.encode(path), Text.encode(backend)));
    }

    /**
     * The files of a model that lie in other files, as assets in an APK do. On Android, an asset that is stored uncompressed
     * ({@code noCompress} in the recipe) has its place from {@code AssetManager.openFd}: the descriptor of
     * {@code getParcelFileDescriptor().getFd()}, {@code getStartOffset()} and {@code getLength()}.
     */
    public static final class Files implements AutoCloseable {
        private final AtomicLong handle = new AtomicLong(Native.filesCreate());

        /** Adds a file by its name in a model folder. The descriptor may be closed afterwards. */
        public Files add(String name, int descriptor, long offset, long length) {
            Native.filesAdd(handle.get(), Text.encode(name), descriptor, offset, length);
            return this;
        }

        /** Opens the model that these files are. */
        public Model open(String backend) {
            return new Model(Native.modelOpenFiles(handle.get(), Text.encode(backend)));
        }

        @Override
        public void close() {
            Native.filesDelete(handle.getAndSet(0));
        }
    }

    /** What it is and what it runs on. */
    public String description() {
        return new String(Native.modelDescription(handle.get()), StandardCharsets.UTF_8);
    }

    /** A session without tokens. */
    public Session session() {
        return new Session(Native.sessionCreate(handle.get()));
    }

    /** Sessions that were made from it stay usable. */
    @Override
    public void close() {
        Native.modelDelete(handle.getAndSet(0));
    }
}
