import java.io.File;
import java.io.RandomAccessFile;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.Paths;
import org.kinglet.Answer;
import org.kinglet.KingletException;
import org.kinglet.Model;
import org.kinglet.Session;
import org.kinglet.Text;

/** Uses the classes as an app would, on desktop Java: java Chat MODEL_FOLDER. Fails if something doesn't work as documented. */
public final class Chat {
    private static void require(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    private static String answer(Session session, String messages) {
        StringBuilder text = new StringBuilder();
        try (Answer answer = session.chat(messages, 24, 7)) {
            for (String piece = answer.next(); piece != null; piece = answer.next()) text.append(piece);
        }
        return text.toString();
    }

    /** The descriptor of an open file. On Android, ParcelFileDescriptor provides it. */
    private static int descriptor(Path file) throws Exception {
        for (File open : new File("/proc/self/fd").listFiles()) {
            try {
                if (open.toPath().toRealPath().equals(file.toRealPath())) return Integer.parseInt(open.getName());
            } catch (NoSuchFileException pipe) {
                // Some descriptors have no path.
            }
        }
        throw new AssertionError(file + " is not open");
    }

    public static void main(String[] arguments) throws Exception {
        Path folder = Paths.get(arguments[0]);
        String question = Text.message("user", "Tell me a \"story\" about a \u732b\n\ud83d\ude00.");
        String first;
        try (Model model = Model.open(folder.toString(), "cpu"); Session session = model.session()) {
            System.out.println(model.description());
            first = answer(session, "[" + question + "]");
            System.out.println(first);
            require(first.length() > 10, "an answer");
            String turns = "[" + question + ", " + Text.message("assistant", first) + ", " + Text.message("user", "More!") + "]";
            try (Answer second = session.chat(turns, 4, 7)) {
                while (second.next() != null) {}
                require(second.reusedTokens() > 5, "the second turn continues from the first");
            }

            // Another thread cancels, like a stop button, and the session stays usable.
            try (Answer third = session.chat("[" + question + "]", 24, 7)) {
                Thread stop = new Thread(session::cancel);
                stop.start();
                stop.join();
                third.next();
                throw new AssertionError("a cancelled answer continued");
            } catch (KingletException cancelled) {
                require(cancelled.status == KingletException.CANCELLED, cancelled.toString());
            }
            require(answer(session, "[" + question + "]").equals(first), "the same seed gives the same answer");

            session.close();
            try {
                answer(session, "[]");
                throw new AssertionError("a closed session answered");
            } catch (KingletException closed) {
                require(closed.getMessage().contains("session"), closed.toString());
            }
        }
        try {
            Model.open("/no/such/folder", "cpu");
            throw new AssertionError("opened a model that doesn't exist");
        } catch (KingletException missing) {
            System.out.println(missing.getMessage());
        }

        // By descriptor, offset and length, like the assets of an APK.
        String[] names = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"};
        try (Model.Files files = new Model.Files()) {
            for (String name : names) {
                Path file = folder.resolve(name);
                try (RandomAccessFile open = new RandomAccessFile(file.toFile(), "r")) {
                    files.add(name, descriptor(file), 0, open.length());
                }
            }
            // A model can be opened without generation_config.json, but then the answer for the same seed may differ.
            if (Files.exists(folder.resolve("generation_config.json"))) {
                Path file = folder.resolve("generation_config.json");
                try (RandomAccessFile open = new RandomAccessFile(file.toFile(), "r")) {
                    files.add("generation_config.json", descriptor(file), 0, open.length());
                }
            }
            try (Model model = files.open("cpu"); Session session = model.session()) {
                require(answer(session, "[" + question + "]").equals(first), "the same model from descriptors");
            }
        }
        System.out.println("done");
    }
}
