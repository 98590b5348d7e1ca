/* Chats with a model on the terminal: cc chat.c -lkinglet -o chat && ./chat path/to/model (how to build and find the library: ffi/README.md) */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kinglet.h"

static kinglet_session *session;

/* Ctrl-C stops an answer. A handler may only set a flag, which the token callback reads. */
static volatile sig_atomic_t interrupted;

static void interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

static int32_t print_token(void *user, uint32_t token, const char *text, size_t length) {
    (void)user;
    (void)token;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return interrupted;
}

static int check(kinglet_status status, const char *doing) {
    if (status >= 0) return 1;
    fprintf(stderr, "%s: %s\n", doing, kinglet_last_error());
    return 0;
}

/* The conversation so far as JSON. */
static char *messages;

/* Appends {"role": ROLE, "content": TEXT} to the conversation. */
static int append(const char *role, const char *text) {
    size_t held = messages ? strlen(messages) - 1 : 0;
    char *grown = realloc(messages, held + 6 * strlen(text) + strlen(role) + 64), *to;
    if (!grown) return 0;
    messages = grown;
    to = messages + held;
    to += sprintf(to, "%c{\"role\": \"%s\", \"content\": \"", held ? ',' : '[', role);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == '"' || c == '\\') to += sprintf(to, "\\u%04x", c);
        else *to++ = *text;
    }
    strcpy(to, "\"}]");
    return 1;
}

static int answer(const kinglet_generation_options *options) {
    kinglet_generation *generation = NULL;
    char *text = NULL;
    double reused = 0, rate = 0;
    int good;

    interrupted = 0;
    good = check(kinglet_generation_create_chat(session, messages, options, &generation), "chat") &&
           check(kinglet_generation_run(generation, print_token, NULL), "generate") &&
           check(kinglet_generation_text(generation, &text, NULL), "text") && append("assistant", text);
    if (good) {
        kinglet_generation_stat(generation, KINGLET_STAT_REUSED_TOKENS, &reused);
        kinglet_generation_stat(generation, KINGLET_STAT_DECODE_RATE, &rate);
        printf("\n[%.0f tokens reused, %.1f tokens/s]\n", reused, rate);
    }
    kinglet_free(text);
    kinglet_generation_delete(generation);
    return good;
}

int main(int argc, char **argv) {
    kinglet_model *model = NULL;
    kinglet_generation_options *options = NULL;
    char line[4096], *description = NULL;
    int good;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_FOLDER [SEED]\n", argv[0]);
        return 2;
    }
    good = check(kinglet_check_abi(KINGLET_ABI_VERSION), "libkinglet") &&
           check(kinglet_model_open(argv[1], NULL, &model), argv[1]) &&
           check(kinglet_session_create(model, &session), "session") &&
           check(kinglet_generation_options_create(&options), "options") &&
           check(kinglet_model_description(model, &description), "description");
    if (good && argc > 2) {
        good = check(kinglet_generation_options_set_seed(options, strtoull(argv[2], NULL, 10)), "seed");
    }
    if (good) {
        printf("%s\n", description);
        signal(SIGINT, interrupt);
    }
    while (good) {
        printf("> ");
        fflush(stdout);
        if (!fgets(line, sizeof line, stdin)) break;
        line[strcspn(line, "\r\n")] = 0;
        if (line[0]) good = append("user", line) && answer(options);
    }
    kinglet_free(description);
    free(messages);
    kinglet_generation_options_delete(options);
    kinglet_session_delete(session);
    kinglet_model_delete(model);
    return good ? 0 : 1;
}
