/* Calls every function of kinglet.h, except those of sessions and snapshots (hostile_sessions.c), with null, zero, deleted and absurd arguments:
 * each must return a status, and none may crash. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "expect.h"

#define CHAT "[{\"role\":\"user\",\"content\":\"Hi\"}]"

static int32_t stop(void *user, uint32_t token, const char *text, size_t length) {
    (void)token;
    if (text[length]) return 1;
    return --*(int *)user <= 0;
}

static int32_t refuse(void *user, uint64_t done, uint64_t total) {
    (void)user;
    return done >= total;
}

static kinglet_session *reentered;

static int32_t reenter(void *user, uint32_t token, const char *text, size_t length) {
    size_t position;
    (void)text;
    (void)length;
    EXPECT(kinglet_session_position(reentered, &position), KINGLET_BUSY);
    EXPECT(kinglet_session_feed(reentered, &token, 1), KINGLET_BUSY);
    EXPECT(kinglet_session_reset(reentered), KINGLET_BUSY);
    EXPECT(kinglet_generation_next(user, NULL, NULL, NULL), KINGLET_BUSY);
    OK(kinglet_session_cancel(reentered));
    return 0;
}

static int32_t delete_all(void *user, uint32_t token, const char *text, size_t length) {
    void **handles = user;
    (void)token;
    (void)text;
    (void)length;
    kinglet_generation_delete(handles[0]);
    kinglet_session_delete(handles[1]);
    return 0;
}

static void log_line(void *user, uint32_t level, const char *message) {
    (void)level;
    if (message[0]) ++*(int *)user;
    EXPECT(kinglet_log_set(NULL, NULL, 0), KINGLET_BUSY);
}

static void options(void) {
    kinglet_model_options *o = NULL;
    kinglet_generation_options *g = NULL;
    uint32_t i;
    ARGUMENT(kinglet_model_options_create(NULL));
    OK(kinglet_model_options_create(&o));
    ARGUMENT(kinglet_model_options_set_backend(o, NULL));
    ARGUMENT(kinglet_model_options_set_backend(o, "abacus"));
    EXPECT(kinglet_model_options_set_backend(o, "\xff"), KINGLET_INVALID_UTF8);
    ARGUMENT(kinglet_model_options_set_backend(NULL, "cpu"));
    ARGUMENT(kinglet_model_options_set_threads(o, SIZE_MAX));
    ARGUMENT(kinglet_model_options_set_chunk(o, SIZE_MAX));
    OK(kinglet_model_options_set_context_limit(o, SIZE_MAX));
    OK(kinglet_model_options_set_adapter(o, 0));
    OK(kinglet_model_options_set_adapter(o, -1));
    ARGUMENT(kinglet_model_options_set_adapter(o, -2));
    OK(kinglet_model_options_set_cache_dir(o, "/nowhere"));
    OK(kinglet_model_options_set_cache_dir(o, NULL));
    EXPECT(kinglet_model_options_set_cache_dir(o, "\xff"), KINGLET_INVALID_UTF8);
    OK(kinglet_model_options_set_self_test(o, 0));
    OK(kinglet_model_options_set_attention_window(o, SIZE_MAX, SIZE_MAX));
    OK(kinglet_model_options_set_attention_window(o, 0, 0));
    ARGUMENT(kinglet_model_options_set_kv_bits(o, 5));
    ARGUMENT(kinglet_model_options_set_kv_bits(o, INT32_MIN));
    ARGUMENT(kinglet_model_options_set_state_bits(o, 4));
    OK(kinglet_model_options_set_kv_bits(o, 4));
    OK(kinglet_model_options_set_kv_bits(o, 32));
    OK(kinglet_model_options_set_state_bits(o, 16));
    OK(kinglet_model_options_set_state_bits(o, 32));
    OK(kinglet_model_options_set_cache_bytes(o, SIZE_MAX));
    OK(kinglet_model_options_set_allow_surplus(o, 0x7fffffff));
    OK(kinglet_model_options_set_strict(o, -1));
    OK(kinglet_model_options_set_strict(o, 0));
    OK(kinglet_model_options_set_fetch(o, -1));
    OK(kinglet_model_options_set_progress(o, NULL, made_up));
    HANDLE(kinglet_model_options_delete(made_up));
    OK(kinglet_model_options_delete(o));
    HANDLE(kinglet_model_options_delete(o));
    HANDLE(kinglet_model_options_set_threads(o, 1));
    HANDLE(kinglet_model_options_set_progress(o, NULL, NULL));
    OK(kinglet_model_options_delete(NULL));

    ARGUMENT(kinglet_generation_options_create(NULL));
    OK(kinglet_generation_options_create(&g));
    for (i = 0; i < 16; i++) {
        ARGUMENT(kinglet_generation_options_set(g, i, NAN));
        ARGUMENT(kinglet_generation_options_set(g, i, INFINITY));
        ARGUMENT(kinglet_generation_options_set(NULL, i, 0));
    }
    ARGUMENT(kinglet_generation_options_set(g, KINGLET_TOP_K, -1));
    ARGUMENT(kinglet_generation_options_set(g, KINGLET_TOP_K, 1.5));
    ARGUMENT(kinglet_generation_options_set(g, KINGLET_TOP_K, 1e300));
    ARGUMENT(kinglet_generation_options_set(g, KINGLET_TOP_P, 0));
    ARGUMENT(kinglet_generation_options_set(g, 16, 0));
    ARGUMENT(kinglet_generation_options_set(g, UINT32_MAX, 0));
    ARGUMENT(kinglet_generation_options_add_logit_bias(g, 1, NAN));
    OK(kinglet_generation_options_set_max_tokens(g, SIZE_MAX));
    OK(kinglet_generation_options_set_seed(g, UINT64_MAX));
    ARGUMENT(kinglet_generation_options_add_stop(g, NULL));
    ARGUMENT(kinglet_generation_options_add_stop(g, ""));
    EXPECT(kinglet_generation_options_add_stop(g, "\xc3"), KINGLET_INVALID_UTF8);
    for (i = 0; i < 4096; i++) OK(kinglet_generation_options_add_stop_token(g, i));
    EXPECT(kinglet_generation_options_add_stop_token(g, 1), KINGLET_TOO_LARGE);
    OK(kinglet_generation_options_set_ignore_eos(g, 1));
    OK(kinglet_generation_options_set_tools(g, NULL));
    EXPECT(kinglet_generation_options_set_tools(g, ""), KINGLET_TEXT);
    ARGUMENT(kinglet_generation_options_set_tools(g, "{}"));
    OK(kinglet_generation_options_set_variables(g, NULL));
    EXPECT(kinglet_generation_options_set_variables(g, "{"), KINGLET_TEXT);
    ARGUMENT(kinglet_generation_options_set_variables(g, "[]"));
    OK(kinglet_generation_options_set_template(g, "none"));
    OK(kinglet_generation_options_set_template(g, NULL));
    OK(kinglet_generation_options_set_now(g, 0));
    ARGUMENT(kinglet_generation_options_set_now(g, INT64_MAX));
    HANDLE(kinglet_model_options_delete((kinglet_model_options *)g));
    OK(kinglet_generation_options_delete(g));
    HANDLE(kinglet_generation_options_delete(g));
    HANDLE(kinglet_generation_options_set_seed(g, 1));
}

static void files(const char *folder) {
    kinglet_files *f = NULL;
    kinglet_model *model = NULL;
    uint64_t bytes;
    ARGUMENT(kinglet_files_create(NULL));
    OK(kinglet_files_create(&f));
    ARGUMENT(kinglet_files_add_fd(f, NULL, 0, 0, 0));
    ARGUMENT(kinglet_files_add_fd(f, "x", -1, 0, 0));
    EXPECT(kinglet_files_add_fd(f, "x", 0x7ffffffe, 0, UINT64_MAX), KINGLET_IO);
    ARGUMENT(kinglet_files_add_bytes(f, "a/b", "", 0));
    ARGUMENT(kinglet_files_add_bytes(f, "", "", 0));
    ARGUMENT(kinglet_files_add_bytes(f, "x", NULL, 1));
    EXPECT(kinglet_files_add_bytes(f, "x", "", SIZE_MAX), KINGLET_TOO_LARGE);
    OK(kinglet_files_add_bytes(f, "x", NULL, 0));
    ARGUMENT(kinglet_model_open_files(f, NULL, NULL));
    EXPECT(kinglet_estimate_files(f, NULL, 1, NULL, NULL, NULL), KINGLET_NOT_FOUND);
    EXPECT(kinglet_estimate_files(f, NULL, SIZE_MAX, NULL, NULL, NULL), KINGLET_TOO_LARGE);
    ARGUMENT(kinglet_estimate_files(NULL, NULL, 1, NULL, NULL, NULL));
    HANDLE(kinglet_estimate_files(made_up, NULL, 1, NULL, NULL, NULL));
    EXPECT(kinglet_model_open_files(f, NULL, &model), KINGLET_NOT_FOUND);
    OK(kinglet_files_add_bytes(f, "config.json", "{]", 2));
    EXPECT(kinglet_model_open_files(f, NULL, &model), KINGLET_BAD_MODEL);
    HANDLE(kinglet_model_open_files(made_up, NULL, &model));
    ARGUMENT(kinglet_model_open_files(NULL, NULL, &model));
    OK(kinglet_files_delete(f));
    HANDLE(kinglet_files_delete(f));
    HANDLE(kinglet_files_add_bytes(f, "x", NULL, 0));

    ARGUMENT(kinglet_model_open(NULL, NULL, &model));
    ARGUMENT(kinglet_model_open("", NULL, &model));
    ARGUMENT(kinglet_model_open(folder, NULL, NULL));
    EXPECT(kinglet_model_open("/no such folder", NULL, &model), KINGLET_NOT_FOUND);
    EXPECT(kinglet_model_open("/\xff", NULL, &model), KINGLET_NOT_FOUND);
    HANDLE(kinglet_model_open(folder, made_up, &model));
    EXPECT((size_t)model, 0);
    ARGUMENT(kinglet_estimate(NULL, NULL, 0, NULL, NULL, NULL));
    EXPECT(kinglet_estimate(folder, NULL, SIZE_MAX, &bytes, NULL, NULL), KINGLET_TOO_LARGE);
    EXPECT(kinglet_estimate(folder, NULL, (64u << 20) + 1, &bytes, NULL, NULL), KINGLET_TOO_LARGE);
    OK(kinglet_estimate(folder, NULL, 64u << 20, NULL, &bytes, NULL));
    EXPECT(bytes > 64u << 20, 1);
    EXPECT(kinglet_estimate("/nowhere", NULL, 1, &bytes, NULL, NULL), KINGLET_NOT_FOUND);
    OK(kinglet_estimate(folder, NULL, 0, NULL, NULL, NULL));
}

static void tokenizers(kinglet_model *model, const char *folder) {
    kinglet_tokenizer *t = NULL;
    kinglet_decoder *d = NULL;
    uint32_t *tokens = NULL, id, wild[2] = {UINT32_MAX, 0x7fffffff};
    char *text = NULL;
    size_t count = 0;
    ARGUMENT(kinglet_tokenizer_open(NULL, &t));
    ARGUMENT(kinglet_tokenizer_open(folder, NULL));
    EXPECT(kinglet_tokenizer_open("/no such folder", &t), KINGLET_NOT_FOUND);
    OK(kinglet_tokenizer_open(folder, &t));
    OK(kinglet_tokenizer_delete(t));
    HANDLE(kinglet_tokenizer_delete(t));
    ARGUMENT(kinglet_model_tokenizer(model, NULL));
    OK(kinglet_model_tokenizer(model, &t));
    ARGUMENT(kinglet_tokenizer_encode(t, NULL, 1, 0, &tokens, &count));
    ARGUMENT(kinglet_tokenizer_encode(t, "a", 1, 0, NULL, &count));
    ARGUMENT(kinglet_tokenizer_encode(t, "a", 1, 0, &tokens, NULL));
    ARGUMENT(kinglet_tokenizer_encode(t, "a", 1, 4, &tokens, &count));
    EXPECT(kinglet_tokenizer_encode(t, "a", SIZE_MAX, 0, &tokens, &count), KINGLET_TOO_LARGE);
    EXPECT(kinglet_tokenizer_encode(t, "\xe6\x97", 2, 0, &tokens, &count), KINGLET_INVALID_UTF8);
    OK(kinglet_tokenizer_encode(t, NULL, 0, 0, &tokens, &count));
    EXPECT(count, 0);
    OK(kinglet_free(tokens));
    HANDLE(kinglet_free(tokens));
    HANDLE(kinglet_free(&count));
    OK(kinglet_free(NULL));
    ARGUMENT(kinglet_tokenizer_decode(t, NULL, 1, 0, &text, NULL));
    EXPECT(kinglet_tokenizer_decode(t, wild, SIZE_MAX, 0, &text, NULL), KINGLET_TOO_LARGE);
    ARGUMENT(kinglet_tokenizer_decode(t, (uint32_t *)((char *)wild + 1), 1, 0, &text, NULL));
    OK(kinglet_tokenizer_decode(t, wild, 2, 0, &text, &count));
    EXPECT(count, 0);
    OK(kinglet_free(text));
    ARGUMENT(kinglet_tokenizer_vocabulary(t, NULL));
    ARGUMENT(kinglet_tokenizer_token(t, NULL, &id));
    EXPECT(kinglet_tokenizer_token(t, "no such token", &id), KINGLET_NOT_FOUND);
    ARGUMENT(kinglet_decoder_create(t, 0, NULL));
    OK(kinglet_decoder_create(t, 0, &d));
    OK(kinglet_tokenizer_delete(t));
    ARGUMENT(kinglet_decoder_push(d, 1, NULL, NULL));
    OK(kinglet_decoder_push(d, UINT32_MAX, &text, NULL));
    OK(kinglet_free(text));
    OK(kinglet_decoder_finish(d, &text, &count));
    OK(kinglet_free(text));
    OK(kinglet_decoder_delete(d));
    HANDLE(kinglet_decoder_push(d, 1, &text, NULL));
    HANDLE(kinglet_tokenizer_encode(t, "a", 1, 0, &tokens, &count));
}

static void generations(kinglet_model *model) {
    kinglet_session *s = NULL;
    kinglet_generation *g = NULL;
    kinglet_generation_options *o = NULL;
    const char *text = NULL;
    char *whole = NULL;
    int32_t finish = -1;
    int left = 3;
    uint32_t token, one = 1;
    size_t length, position;
    double value = -1;
    void *handles[2];
    OK(kinglet_session_create(model, &s));
    OK(kinglet_generation_options_create(&o));
    OK(kinglet_generation_options_set_max_tokens(o, 5));
    OK(kinglet_generation_options_set_ignore_eos(o, 1));
    ARGUMENT(kinglet_generation_create(s, NULL, 0, NULL, NULL));
    ARGUMENT(kinglet_generation_create(s, NULL, 1, NULL, &g));
    ARGUMENT(kinglet_generation_create(NULL, NULL, 0, NULL, &g));
    HANDLE(kinglet_generation_create(s, NULL, 0, made_up, &g));
    OK(kinglet_generation_create(s, NULL, 0, NULL, &g));
    EXPECT(kinglet_generation_next(g, NULL, NULL, NULL), KINGLET_INVALID_STATE);
    OK(kinglet_generation_delete(g));
    HANDLE(kinglet_generation_next(g, NULL, NULL, NULL));
    ARGUMENT(kinglet_generation_create_text(s, NULL, 1, 0, NULL, &g));
    EXPECT(kinglet_generation_create_text(s, "\xff", 1, 0, NULL, &g), KINGLET_INVALID_UTF8);
    ARGUMENT(kinglet_generation_create_chat(s, NULL, NULL, &g));
    EXPECT(kinglet_generation_create_chat(s, "", NULL, &g), KINGLET_TEXT);
    EXPECT(kinglet_generation_create_chat(s, "[]", NULL, &g), KINGLET_TEXT);
    EXPECT(kinglet_generation_create_chat(s, "{}", NULL, &g), KINGLET_TEXT);
    EXPECT(kinglet_generation_create_chat(s, "[1]", NULL, &g), KINGLET_TEXT);
    EXPECT(kinglet_generation_create_chat(s, "[{\"role\":1}]", NULL, &g), KINGLET_TEXT);
    EXPECT(kinglet_generation_create_chat(s, "\xff", NULL, &g), KINGLET_INVALID_UTF8);
    ARGUMENT(kinglet_model_render(model, CHAT, NULL, NULL, NULL));
    OK(kinglet_model_render(model, CHAT, NULL, &whole, &length));
    EXPECT(strlen(whole) == length && strstr(whole, "Hi") != NULL, 1);
    OK(kinglet_free(whole));

    OK(kinglet_generation_create_chat(s, CHAT, o, &g));
    while (kinglet_generation_next(g, &token, &text, &length) == KINGLET_OK) EXPECT(text[length], 0);
    EXPECT(kinglet_generation_next(g, NULL, NULL, NULL), KINGLET_DONE);
    OK(kinglet_generation_finish(g, &finish));
    EXPECT(finish, KINGLET_FINISH_MAX_TOKENS);
    OK(kinglet_generation_stat(g, KINGLET_STAT_GENERATED_TOKENS, &value));
    EXPECT(value, 5);
    ARGUMENT(kinglet_generation_stat(g, 10, &value));
    ARGUMENT(kinglet_generation_stat(g, UINT32_MAX, &value));
    ARGUMENT(kinglet_generation_stat(g, 0, NULL));
    ARGUMENT(kinglet_generation_finish(g, NULL));
    ARGUMENT(kinglet_generation_text(g, NULL, NULL));
    OK(kinglet_generation_stat(g, KINGLET_STAT_PROMPT_TOKENS, &value));
    OK(kinglet_session_position(s, &position));
    EXPECT(position, (int)value + 5);
    OK(kinglet_generation_delete(g));

    /* Repeating the same conversation only computes the logits of its last token. */
    OK(kinglet_generation_create_chat(s, CHAT, o, &g));
    OK(kinglet_generation_run(g, stop, &left));
    OK(kinglet_generation_finish(g, &finish));
    EXPECT(finish, KINGLET_FINISH_STOPPED);
    OK(kinglet_generation_stat(g, KINGLET_STAT_REUSED_TOKENS, &value));
    EXPECT(value > 0, 1);
    OK(kinglet_generation_delete(g));

    /* Within a callback the session is busy, but can be cancelled; then it continues. */
    OK(kinglet_generation_create_text(s, "a", 1, 0, o, &g));
    reentered = s;
    EXPECT(kinglet_generation_run(g, reenter, g), KINGLET_CANCELLED);
    OK(kinglet_generation_run(g, NULL, NULL));
    OK(kinglet_generation_finish(g, &finish));
    EXPECT(finish, KINGLET_FINISH_MAX_TOKENS);
    OK(kinglet_generation_delete(g));

    /* The session was used for something else. */
    OK(kinglet_generation_create(s, &one, 1, o, &g));
    OK(kinglet_generation_next(g, NULL, NULL, NULL));
    OK(kinglet_session_feed(s, &one, 1));
    EXPECT(kinglet_generation_next(g, NULL, NULL, NULL), KINGLET_INVALID_STATE);
    OK(kinglet_generation_delete(g));

    /* Deleted while in use. */
    OK(kinglet_generation_create(s, &one, 1, o, &g));
    handles[0] = g, handles[1] = s;
    OK(kinglet_generation_run(g, delete_all, handles));
    HANDLE(kinglet_generation_run(g, NULL, NULL));
    HANDLE(kinglet_session_position(s, &position));
    HANDLE(kinglet_generation_delete(g));
    HANDLE(kinglet_generation_stop(g));
    OK(kinglet_generation_options_delete(o));
}

int main(int argc, char **argv) {
    kinglet_model *model = NULL, *other = NULL;
    kinglet_model_options *o = NULL;
    kinglet_devices *devices = NULL;
    kinglet_session *s = NULL;
    uint32_t tokens[20] = {0};
    char *text = NULL, words[60];
    size_t count = 0;
    int64_t adapter = 0;
    struct sigaction before[32], after;
    int lines = 0, number;
    if (argc < 3) return 2;
    for (number = 1; number < 32; number++) sigaction(number, NULL, &before[number]);

    EXPECT(kinglet_last_error()[0], 0);
    EXPECT(kinglet_last_error_copy(NULL, 0), 0);
    EXPECT(kinglet_last_error_copy(NULL, SIZE_MAX), 0);
    EXPECT(kinglet_abi_version(), KINGLET_ABI_VERSION);
    EXPECT(kinglet_version()[0] != 0, 1);
    OK(kinglet_check_abi(KINGLET_ABI_VERSION));
    EXPECT(kinglet_check_abi(0), KINGLET_ABI_MISMATCH);
    EXPECT(kinglet_last_error_copy(words, sizeof words), (int)strlen(kinglet_last_error()));
    EXPECT(kinglet_check_abi(99), KINGLET_ABI_MISMATCH);
    EXPECT(strstr(words, "version 0 ") != NULL && strlen(words) < sizeof words, 1);
    ARGUMENT(kinglet_log_set(NULL, NULL, 5));
    OK(kinglet_log_set(log_line, &lines, KINGLET_LOG_DEBUG));
    ARGUMENT(kinglet_devices_create(NULL));
    OK(kinglet_devices_create(&devices));
    ARGUMENT(kinglet_devices_count(devices, NULL));
    OK(kinglet_devices_count(devices, &count));
    EXPECT(count >= 1, 1);
    OK(kinglet_devices_name(devices, 0, &text));
    OK(kinglet_free(text));
    ARGUMENT(kinglet_devices_name(devices, SIZE_MAX, &text));
    ARGUMENT(kinglet_devices_backend(devices, 0, NULL));
    ARGUMENT(kinglet_devices_adapter(devices, 0, NULL));
    ARGUMENT(kinglet_devices_adapter(devices, SIZE_MAX, &adapter));
    OK(kinglet_devices_adapter(devices, 0, &adapter));
    EXPECT(adapter, -1);
    for (size_t i = 1; i < count; i++) {
        OK(kinglet_devices_adapter(devices, i, &adapter));
        EXPECT(adapter >= 0, 1);
    }
    OK(kinglet_devices_delete(devices));
    HANDLE(kinglet_devices_count(devices, &count));

    options();
    files(argv[1]);
    OK(kinglet_model_options_create(&o));
    OK(kinglet_model_options_set_progress(o, refuse, NULL));
    EXPECT(kinglet_model_open(argv[1], o, &model), KINGLET_CANCELLED);
    OK(kinglet_model_options_set_progress(o, NULL, NULL));
    OK(kinglet_model_open(argv[1], NULL, &model));
    OK(kinglet_model_options_set_context_limit(o, 16));
    OK(kinglet_model_options_set_threads(o, 1));
    OK(kinglet_model_open(argv[2], o, &other));
    OK(kinglet_session_create(other, &s));
    EXPECT(kinglet_session_feed(s, tokens, 20), KINGLET_CONTEXT_FULL);
    OK(kinglet_session_feed(s, tokens, 16));
    EXPECT(kinglet_session_feed(s, tokens, 1), KINGLET_CONTEXT_FULL);
    OK(kinglet_session_delete(s));
    OK(kinglet_model_options_delete(o));
    ARGUMENT(kinglet_model_vocabulary(model, NULL));
    ARGUMENT(kinglet_model_description(model, NULL));
    ARGUMENT(kinglet_model_description(NULL, &text));
    OK(kinglet_model_description(model, &text));
    OK(kinglet_free(text));
    tokenizers(model, argv[1]);
    generations(model);

    /* Objects made from a model outlive it. */
    OK(kinglet_session_create(model, &s));
    OK(kinglet_model_delete(model));
    HANDLE(kinglet_model_delete(model));
    OK(kinglet_session_feed(s, tokens, 1));
    OK(kinglet_session_delete(s));
    OK(kinglet_model_delete(other));
    OK(kinglet_log_set(NULL, NULL, KINGLET_LOG_OFF));
    for (number = 1; number < 32; number++) {
        sigaction(number, NULL, &after);
        EXPECT(after.sa_handler == before[number].sa_handler, 1);
    }
    return failures ? 1 : 0;
}
