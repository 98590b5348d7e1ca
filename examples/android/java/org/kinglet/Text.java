package org.kinglet;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Text on its way to C, and into JSON. */
public final class Text {
    private Text() {}

    /** UTF-8 with a NUL behind it. */
    static byte[] encode(String text) {
        if (text.indexOf('\0') >= 0) {
            throw new IllegalArgumentException("a text for Kinglet holds a NUL");
        }
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        return Arrays.copyOf(bytes, bytes.length + 1);
    }

    /** A message as JSON, {@code {"role": ..., "content": ...}}; a conversation is a list of them. */
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
