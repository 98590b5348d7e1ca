package org.kinglet;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Converts text for C and into JSON. */
public final class Text {
    private Text() {}

    /** UTF-8 with a terminating NUL. */
    static byte[] encode(String text) {
        if (text.indexOf('\0') >= 0) {
            throw new IllegalArgumentException("text for Kinglet can't contain a NUL character");
        }
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        return Arrays.copyOf(bytes, bytes.length + 1);
    }

    /** A message as JSON, {@code {"role": ..., "content": ...}}; a conversation is a JSON list of messages. */
    public static String message(String role, String content) {
        return "{\"role\": " + quote(role) + ", \"content\": " + quote(content) + "}";
    }

    private static String quote(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c < 0x20 || c == '"' || c == '\\') {
                quoted.append(String.format("\\u%04x", (int) c));
            } else {
                quoted.append(c);
            }
        }
        return quoted.append('"').toString();
    }
}
