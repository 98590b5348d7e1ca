/*
 * Kinglet: recurrent and hybrid language models on your own devices.
 *
 * A complete program that opens a model, creates a session and prints an answer:
 *
 *     #include <stdio.h>
 *     #include "kinglet.h"
 *
 *     int main(int argc, char **argv) {
 *         kinglet_model *model = NULL;
 *         kinglet_session *session = NULL;
 *         kinglet_generation *answer = NULL;
 *         const char *text, *folder = argc > 1 ? argv[1] : "path/to/model";
 *         const char *messages = "[{\"role\": \"user\", \"content\": \"Hello\"}]";
 *         kinglet_status status;
 *
 *         if ((status = kinglet_check_abi(KINGLET_ABI_VERSION)) < 0 ||
 *             (status = kinglet_model_open(folder, NULL, &model)) < 0 ||
 *             (status = kinglet_session_create(model, &session)) < 0 ||
 *             (status = kinglet_generation_create_chat(session, messages, NULL, &answer)) < 0)
 *             goto end;
 *         while ((status = kinglet_generation_next(answer, NULL, &text, NULL)) == KINGLET_OK) {
 *             fputs(text, stdout);
 *             fflush(stdout);
 *         }
 *     end:
 *         if (status < 0)
 *             fprintf(stderr, "%s\n", kinglet_last_error());
 *         kinglet_generation_delete(answer);
 *         kinglet_session_delete(session);
 *         kinglet_model_delete(model);
 *         return status < 0;
 *     }
 *
 * Build it with cc program.c -lkinglet. If the library is not installed, add -I and -L, or the flags that pkg-config
 * prints.
 *
 * Errors. Every function that can fail returns a kinglet_status: KINGLET_OK is 0 and errors are negative. After an
 * error kinglet_last_error() returns a message until the next call on the thread fails; kinglet_last_error_copy()
 * keeps it. A call that fails writes none of its results (kinglet_step and other functions that compute say what
 * happens to a session). The program above shows the pattern: handles start as NULL, the first error jumps to the
 * end, and the end deletes everything, since deleting NULL is allowed.
 *
 * Handles. A kinglet_... pointer is an opaque handle. You own what a _create, _open, _fork or _load function returns
 * and pass it once to the matching _delete function. A handle that was deleted, is of another kind or was made up is
 * detected, and the call returns KINGLET_INVALID_HANDLE. Objects keep what they need of one another, so they can be
 * deleted in any order.
 *
 * Memory. You own what is returned through a char **, uint32_t ** or void ** and pass it to kinglet_free, unless the
 * function says otherwise. Arguments are copied and are only read during the call.
 *
 * Text is UTF-8; anything else is KINGLET_INVALID_UTF8. A text without a length ends with a NUL. A text of length 0
 * is empty, and its pointer may be null. Texts above 256 MiB and more than 64 Mi tokens are KINGLET_TOO_LARGE. Paths
 * on Unix may contain any bytes.
 *
 * Threads. Any thread may call any function; an object for one call at a time returns KINGLET_BUSY to a second one.
 * Callbacks run on the calling thread, except the log callback. Different sessions of a model may be used on
 * different threads; their steps run one after another.
 *
 * The host. Kinglet writes nothing to standard output or standard error, installs no signal handlers and does not end
 * the process. Its own bugs are caught as KINGLET_INTERNAL. Two faults can't be caught: an invalid pointer to memory,
 * and a model file that is truncated while a step reads it (its size is checked before each step).
 *
 * The sections are in the order in which a program needs them: errors, versions, objects, memory, models, sessions,
 * answers, and then what only some programs need.
 *
 * This file is generated from ffi/src by ffi/header.sh.
 */

#ifndef KINGLET_H
#define KINGLET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* ==== Errors ==== */

/**
 * Result of a call. Errors are negative; new ones may be added, so treat every negative number as
 * an error. `kinglet_last_error` returns the message.
 */
enum kinglet_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Success.
   */
  KINGLET_OK = 0,
  /**
   * Only `kinglet_generation_next`: the answer is complete, there is no further token.
   */
  KINGLET_DONE = 1,
  /**
   * An argument is null where it must not be, out of range, or inconsistent with another.
   */
  KINGLET_INVALID_ARGUMENT = -1,
  /**
   * A handle is invalid: it was deleted, is of another kind, or never came from Kinglet.
   */
  KINGLET_INVALID_HANDLE = -2,
  /**
   * A text is not UTF-8.
   */
  KINGLET_INVALID_UTF8 = -3,
  /**
   * A length or a count exceeds its limit.
   */
  KINGLET_TOO_LARGE = -4,
  /**
   * The object is in use by another call: on another thread, or the one that called this
   * callback.
   */
  KINGLET_BUSY = -5,
  /**
   * The call was cancelled, by `kinglet_session_cancel` or by a progress callback.
   */
  KINGLET_CANCELLED = -6,
  /**
   * A file or folder does not exist.
   */
  KINGLET_NOT_FOUND = -7,
  /**
   * The system refused to read or write a file.
   */
  KINGLET_IO = -8,
  /**
   * The model's files are broken, contradict each other, or describe a model that is not supported.
   */
  KINGLET_BAD_MODEL = -9,
  /**
   * This build, backend or system does not support it.
   */
  KINGLET_UNSUPPORTED = -10,
  /**
   * Out of memory.
   */
  KINGLET_OUT_OF_MEMORY = -11,
  /**
   * An earlier call on this session failed halfway. Reset it, restore a snapshot, or delete it.
   */
  KINGLET_POISONED = -12,
  /**
   * The session would exceed its token limit.
   */
  KINGLET_CONTEXT_FULL = -13,
  /**
   * The session can't return to this position.
   */
  KINGLET_NOT_REACHABLE = -14,
  /**
   * Invalid JSON, messages that the template refuses, or a text that the tokenizer fails on.
   */
  KINGLET_TEXT = -15,
  /**
   * The sampler can't choose a token.
   */
  KINGLET_SAMPLING = -16,
  /**
   * The objects don't fit this call: another model's session, or a generation whose session
   * continued without it.
   */
  KINGLET_INVALID_STATE = -17,
  /**
   * A saved session is damaged, or belongs to another model.
   */
  KINGLET_BAD_SAVED_STATE = -18,
  /**
   * The program was compiled for another version of this interface.
   */
  KINGLET_ABI_MISMATCH = -19,
  /**
   * A bug in Kinglet that was caught. Please report it. The session that the call worked on is
   * poisoned.
   */
  KINGLET_INTERNAL = -20,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_status kinglet_status;
#else
typedef int32_t kinglet_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Returns the message of the last call that failed on this thread, one line of UTF-8; the empty
 * string if none has.
 *
 * Never null. The text belongs to Kinglet and is valid until the next failure on the same thread,
 * or until the thread ends; `kinglet_last_error_copy` keeps it. Each thread has its own. The
 * message is for people: programs check the status.
 */
const char *kinglet_last_error(void);

/**
 * Copies the text of `kinglet_last_error` to `buffer`, which has room for `size` bytes, and
 * returns the length of the whole text without its NUL, like `snprintf`. A text that does not fit
 * is cut at a character boundary. The copy ends with a NUL. With `size` 0 `buffer` may be null,
 * and only the length is returned. This function can't fail and does not change the text of
 * `kinglet_last_error`.
 */
size_t kinglet_last_error_copy(char *buffer, size_t size);

/* ==== Versions ==== */

/**
 * Version of this interface. It increases when programs compiled for an earlier one no longer
 * work; additions do not change it.
 */
#define KINGLET_ABI_VERSION 1

/**
 * Checks the interface version; call it first, as `kinglet_check_abi(KINGLET_ABI_VERSION)`. If it
 * does not return `KINGLET_OK`, the program was compiled for a different library and must call
 * nothing else but `kinglet_last_error`.
 */
kinglet_status kinglet_check_abi(uint32_t version);

/**
 * Returns the interface version that the library was built with. Compare it with
 * `KINGLET_ABI_VERSION`.
 */
uint32_t kinglet_abi_version(void);

/**
 * Returns the version of the library, such as `"0.1.0"`. The text is static.
 */
const char *kinglet_version(void);

/* ==== Objects ====
 * Types of handles. A chat needs a model, a session and a generation.
 */

/**
 * An open model: its weights and everything needed to compute. Thread-safe; steps of its sessions
 * run one after another.
 */
typedef struct kinglet_model kinglet_model;

/**
 * A sequence of tokens and its state in the model. One thread at a time: a call during another
 * call on the same session returns `KINGLET_BUSY` and changes nothing. Only
 * `kinglet_session_cancel`, `kinglet_session_clear_cancel` and `kinglet_session_delete` may be
 * called at any time. Threads may take turns.
 *
 * A call that fails halfway poisons the session, and later calls return `KINGLET_POISONED` until
 * it is reset or restored. A call that was cancelled, or whose arguments were refused, does not.
 */
typedef struct kinglet_session kinglet_session;

/**
 * One answer, during and after generation. It belongs to a session. The session is locked only
 * during calls, but it must not be fed, rewound or given to another generation before the answer
 * is complete: the next call would return `KINGLET_INVALID_STATE`. One thread at a time.
 */
typedef struct kinglet_generation kinglet_generation;

/**
 * Options for generating an answer. New options use the model's own settings. They are copied when
 * a generation is created and may be changed or deleted afterwards. Thread-safe.
 */
typedef struct kinglet_generation_options kinglet_generation_options;

/**
 * Options for opening a model. New options hold the defaults. They are copied when a model is
 * opened and may be changed or deleted afterwards. Thread-safe.
 */
typedef struct kinglet_model_options kinglet_model_options;

/**
 * A tokenizer. Thread-safe.
 */
typedef struct kinglet_tokenizer kinglet_tokenizer;

/**
 * Converts a stream of tokens to text, without splitting characters. One thread at a time; another
 * gets `KINGLET_BUSY`.
 */
typedef struct kinglet_decoder kinglet_decoder;

/**
 * The state of a session at one moment. It never changes. Thread-safe. It shares memory with the
 * session until the session continues.
 */
typedef struct kinglet_snapshot kinglet_snapshot;

/**
 * Model files, named as in a model folder, for `kinglet_model_open_files`. Required: `config.json`
 * and `model.safetensors` (or `model.safetensors.index.json` and its shards). For text:
 * `tokenizer.json` and `tokenizer_config.json`. For chat: `chat_template.jinja`, if the model has
 * one. For the model's own sampling settings: `generation_config.json`. Thread-safe.
 */
typedef struct kinglet_files kinglet_files;

/**
 * A list of devices at the time it was created. Thread-safe.
 */
typedef struct kinglet_devices kinglet_devices;

/* ==== Memory ==== */

/**
 * Frees memory that a call returned: a text, tokens, the bytes of a saved session.
 *
 * Null is allowed. Memory that was already freed, or did not come from Kinglet, is left alone and
 * returns `KINGLET_INVALID_HANDLE`. Thread-safe.
 */
kinglet_status kinglet_free(void *memory);

/* ==== Models ==== */

/**
 * Opens the model in the folder `path`: `config.json` and `model.safetensors` or its shards, as
 * downloaded from Hugging Face, or a `models--ORG--NAME` folder of its cache. `options` may be
 * null. Weights are memory-mapped, not read, so this takes milliseconds unless the options say
 * otherwise.
 *
 * Free the model with `kinglet_model_delete`. Its sessions, generations and tokenizers keep what
 * they need of it. Do not write to the model's files while it is open: replace a file by renaming
 * another over it.
 */
kinglet_status kinglet_model_open(const char *path,
                                  const struct kinglet_model_options *options,
                                  struct kinglet_model **model);

/**
 * Deletes a model. Null is allowed. Objects made from it stay usable; its memory is freed with the
 * last of them.
 */
kinglet_status kinglet_model_delete(struct kinglet_model *model);

/**
 * Describes the model and what it runs on in a line for people. Free the text with `kinglet_free`.
 */
kinglet_status kinglet_model_description(const struct kinglet_model *model, char **text);

/**
 * Returns the number of logits that the model computes for a token. Every token is smaller than
 * this.
 */
kinglet_status kinglet_model_vocabulary(const struct kinglet_model *model, size_t *count);

/* ==== Sessions ==== */

/**
 * Creates a session without tokens. Free it with `kinglet_session_delete`.
 */
kinglet_status kinglet_session_create(const struct kinglet_model *model, struct kinglet_session **session);

/**
 * Deletes a session. Null is allowed. A call in progress on another thread continues (cancel it
 * first); a generation keeps its session until it is deleted too.
 */
kinglet_status kinglet_session_delete(struct kinglet_session *session);

/**
 * Removes all tokens from the session. A poisoned session becomes valid again.
 */
kinglet_status kinglet_session_reset(struct kinglet_session *session);

/**
 * Returns the number of tokens that the session holds.
 */
kinglet_status kinglet_session_position(const struct kinglet_session *session, size_t *tokens);

/**
 * Cancels the session's current call, or, if there is none, its next call that computes. May be
 * called from any thread at any time, also from a callback. The cancelled call returns
 * `KINGLET_CANCELLED` within one step (on the CPU, with several tokens, within one operation of a
 * layer) and clears the cancellation. The session stays valid.
 */
kinglet_status kinglet_session_cancel(struct kinglet_session *session);

/**
 * Clears a cancellation that came too late for the call it was meant for. May be called from any
 * thread at any time.
 */
kinglet_status kinglet_session_clear_cancel(struct kinglet_session *session);

/* ==== Answers ====
 * Create a generation with a prompt, then run it: token by token, or at once with a callback.
 */

/**
 * Creates a generation that answers a conversation. `messages` is JSON such as `[{"role": "user",
 * "content": "Hi"}]`, with the roles and further fields that the model's template knows. Pass the
 * whole conversation each time. `options` may be null. Nothing is computed before the first call
 * of `kinglet_generation_next`.
 *
 * The conversation replaces the session's content. The longest prefix that the session has
 * computed before, also for other conversations, is reused, so a turn costs only its new tokens
 * (`KINGLET_STAT_REUSED_TOKENS`).
 *
 * Free the generation with `kinglet_generation_delete`.
 */
kinglet_status kinglet_generation_create_chat(struct kinglet_session *session,
                                              const char *messages,
                                              const struct kinglet_generation_options *options,
                                              struct kinglet_generation **generation);

/**
 * Like `kinglet_generation_create`, for a text of `length` bytes, which is tokenized with `flags`
 * as in `kinglet_tokenizer_encode`.
 */
kinglet_status kinglet_generation_create_text(struct kinglet_session *session,
                                              const char *text,
                                              size_t length,
                                              uint32_t flags,
                                              const struct kinglet_generation_options *options,
                                              struct kinglet_generation **generation);

/**
 * Creates a generation that first feeds `count` tokens to the session and continues from there.
 * With `count` 0 and `tokens` null it continues from the session's position. `options` may be
 * null. Nothing is computed before the first call of `kinglet_generation_next`.
 *
 * Free the generation with `kinglet_generation_delete`.
 */
kinglet_status kinglet_generation_create(struct kinglet_session *session,
                                         const uint32_t *tokens,
                                         size_t count,
                                         const struct kinglet_generation_options *options,
                                         struct kinglet_generation **generation);

/**
 * Generates the next token. `KINGLET_OK` returns the token and the text that is now final:
 * `length` bytes of UTF-8 followed by a NUL, often empty, never part of a character.
 * `KINGLET_DONE` means that the answer is complete and there is no token. Each of the three out
 * pointers may be null.
 *
 * The text belongs to Kinglet and is valid until the next call with this generation. After
 * `KINGLET_CANCELLED` the next call continues. After `KINGLET_DONE` the session holds the prompt
 * and the answer without its stop token.
 */
kinglet_status kinglet_generation_next(struct kinglet_generation *generation,
                                       uint32_t *token,
                                       const char **text,
                                       size_t *length);

/**
 * Called for each token of an answer, with `user`, the token, and the text that is now final:
 * `length` bytes of UTF-8 followed by a NUL, often empty, never part of a character, valid until
 * the callback returns. Return 0 to continue and any other value to end the answer.
 *
 * It runs on the generating thread. It may call any function, but calls on the same generation or
 * session return `KINGLET_BUSY`, except `kinglet_session_cancel`. It must return normally: no
 * exception, no `longjmp`.
 */
typedef int32_t (*kinglet_token_callback)(void *user, uint32_t token, const char *text, size_t length);

/**
 * Generates the rest of the answer. `callback` may be null; `kinglet_generation_text` returns the
 * whole text.
 */
kinglet_status kinglet_generation_run(struct kinglet_generation *generation,
                                      kinglet_token_callback callback,
                                      void *user);

/**
 * Ends the answer. The session then holds every token that was returned.
 */
kinglet_status kinglet_generation_stop(struct kinglet_generation *generation);

/**
 * Deletes a generation, complete or not. Null is allowed. A generation keeps its session in
 * memory.
 */
kinglet_status kinglet_generation_delete(struct kinglet_generation *generation);

/**
 * Returns the text of the answer so far, with a terminating NUL that `length` (may be null) does
 * not count. Free it with `kinglet_free`.
 */
kinglet_status kinglet_generation_text(const struct kinglet_generation *generation,
                                       char **text,
                                       size_t *length);

/**
 * Why an answer ended.
 */
enum kinglet_finish
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It has not ended.
   */
  KINGLET_FINISH_NONE = 0,
  /**
   * The model generated one of its stop tokens.
   */
  KINGLET_FINISH_STOP = 1,
  /**
   * A stop string appeared.
   */
  KINGLET_FINISH_STOP_TEXT = 2,
  /**
   * It reached the maximum number of tokens.
   */
  KINGLET_FINISH_MAX_TOKENS = 3,
  /**
   * Prompt and answer fill the session's limit, or the positions that the model was trained for.
   */
  KINGLET_FINISH_CONTEXT_FULL = 4,
  /**
   * The program stopped it, with `kinglet_generation_stop` or from the token callback.
   */
  KINGLET_FINISH_STOPPED = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_finish kinglet_finish;
#else
typedef int32_t kinglet_finish;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Tells why the answer ended, as an `enum kinglet_finish`; `KINGLET_FINISH_NONE` while it has not.
 */
kinglet_status kinglet_generation_finish(const struct kinglet_generation *generation, int32_t *finish);

/**
 * Statistics of an answer.
 */
enum kinglet_stat
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Tokens of the prompt.
   */
  KINGLET_STAT_PROMPT_TOKENS = 0,
  /**
   * Tokens of the prompt whose state was reused.
   */
  KINGLET_STAT_REUSED_TOKENS = 1,
  /**
   * Tokens of the answer, including its stop token.
   */
  KINGLET_STAT_GENERATED_TOKENS = 2,
  /**
   * Seconds spent on the prompt.
   */
  KINGLET_STAT_PREFILL_SECONDS = 3,
  /**
   * Seconds from the first call to the first token; 0 if there is none.
   */
  KINGLET_STAT_FIRST_TOKEN_SECONDS = 4,
  /**
   * Prompt tokens computed per second; 0 if none were computed.
   */
  KINGLET_STAT_PREFILL_RATE = 5,
  /**
   * Answer tokens per second, after the first; 0 for fewer than two tokens.
   */
  KINGLET_STAT_DECODE_RATE = 6,
  /**
   * Model steps of an answer with speculation; otherwise 0.
   */
  KINGLET_STAT_SPECULATION_STEPS = 7,
  /**
   * Drafted tokens.
   */
  KINGLET_STAT_DRAFTED_TOKENS = 8,
  /**
   * Drafted tokens that were accepted.
   */
  KINGLET_STAT_ACCEPTED_TOKENS = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_stat kinglet_stat;
#else
typedef uint32_t kinglet_stat;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Returns a statistic of the answer. `stat` is an `enum kinglet_stat`.
 */
kinglet_status kinglet_generation_stat(const struct kinglet_generation *generation,
                                       uint32_t stat,
                                       double *value);

/**
 * Renders messages with the model's template, as for `kinglet_generation_create_chat`. Of
 * `options` (may be null) tools, variables, template and time are used. The text ends with a NUL,
 * which `length` (may be null) does not count. Free it with `kinglet_free`.
 */
kinglet_status kinglet_model_render(const struct kinglet_model *model,
                                    const char *messages,
                                    const struct kinglet_generation_options *options,
                                    char **text,
                                    size_t *length);

/* ==== Options for generating an answer ==== */

/**
 * Creates options that use the model's own settings. Free them with
 * `kinglet_generation_options_delete`.
 */
kinglet_status kinglet_generation_options_create(struct kinglet_generation_options **options);

/**
 * Deletes options. Null is allowed.
 */
kinglet_status kinglet_generation_options_delete(struct kinglet_generation_options *options);

/**
 * Sampling options. An option that is not set takes its value from the model's
 * `generation_config.json`, or else the value in parentheses, which has no effect. If the model's
 * default is greedy and an option is set that only matters for random sampling, tokens are
 * sampled, with a top-k of 50 unless it is set, as in transformers.
 */
enum kinglet_sampling
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Divides the logits (1). 0 always takes the most probable token.
   */
  KINGLET_TEMPERATURE = 0,
  /**
   * Keeps only this many of the most probable tokens (0: all).
   */
  KINGLET_TOP_K = 1,
  /**
   * Keeps the most probable tokens whose probabilities add up to this (1).
   */
  KINGLET_TOP_P = 2,
  /**
   * Keeps tokens with at least this fraction of the highest probability (0).
   */
  KINGLET_MIN_P = 3,
  /**
   * Keeps the most typical tokens whose probabilities add up to this (1).
   */
  KINGLET_TYPICAL_P = 4,
  /**
   * Makes tokens that are already in the text less likely (1).
   */
  KINGLET_REPETITION_PENALTY = 5,
  /**
   * Subtracted from the logits of tokens that are already in the text (0).
   */
  KINGLET_PRESENCE_PENALTY = 6,
  /**
   * Subtracted once for each occurrence of the token in the text (0).
   */
  KINGLET_FREQUENCY_PENALTY = 7,
  /**
   * Number of last tokens that the three penalties consider (0: all).
   */
  KINGLET_PENALTY_LAST_N = 8,
  /**
   * Strength of the penalty on repeated sequences, "DRY" (0).
   */
  KINGLET_DRY_MULTIPLIER = 9,
  /**
   * Base of the DRY penalty, which grows with the length of the repetition; at least 1 (1.75).
   */
  KINGLET_DRY_BASE = 10,
  /**
   * Repetitions shorter than this many tokens have no DRY penalty (2).
   */
  KINGLET_DRY_ALLOWED_LENGTH = 11,
  /**
   * Number of last tokens that DRY considers (0: all).
   */
  KINGLET_DRY_LAST_N = 12,
  /**
   * Probability of excluding the most probable tokens, "XTC" (0).
   */
  KINGLET_XTC_PROBABILITY = 13,
  /**
   * Minimum probability of a token that XTC excludes (0.1).
   */
  KINGLET_XTC_THRESHOLD = 14,
  /**
   * 1 applies the temperature after the other filters, as llama.cpp does; 0 before, as
   * transformers does (0).
   */
  KINGLET_TEMPERATURE_LAST = 15,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_sampling kinglet_sampling;
#else
typedef uint32_t kinglet_sampling;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Sets a sampling option. `option` is an `enum kinglet_sampling`. A value out of range is an
 * error.
 */
kinglet_status kinglet_generation_options_set(struct kinglet_generation_options *options,
                                              uint32_t option,
                                              double value);

/**
 * Adds `bias` to the logit of `token`; negative infinity excludes the token.
 */
kinglet_status kinglet_generation_options_add_logit_bias(struct kinglet_generation_options *options,
                                                         uint32_t token,
                                                         float bias);

/**
 * Sets the maximum number of tokens of the answer. 0, the default, is the model's own limit, or
 * 2048.
 */
kinglet_status kinglet_generation_options_set_max_tokens(struct kinglet_generation_options *options,
                                                         size_t tokens);

/**
 * Sets the random seed: the same seed, prompt and options give the same answer. By default each
 * answer has its own seed.
 */
kinglet_status kinglet_generation_options_set_seed(struct kinglet_generation_options *options, uint64_t seed);

/**
 * Adds a stop string. The answer ends before it would appear. Stop strings add to those of the
 * model.
 */
kinglet_status kinglet_generation_options_add_stop(struct kinglet_generation_options *options,
                                                   const char *text);

/**
 * Adds a stop token to those of the model.
 */
kinglet_status kinglet_generation_options_add_stop_token(struct kinglet_generation_options *options,
                                                         uint32_t token);

/**
 * Sets whether the model's own stop tokens and strings end the answer (0, the default) or not (1).
 */
kinglet_status kinglet_generation_options_set_ignore_eos(struct kinglet_generation_options *options,
                                                         int32_t ignore);

/**
 * Sets the maximum number of tokens of prompt and answer together, in addition to the session's
 * own limit. 0, the default, is the number of positions that the model was trained for, if it is
 * limited; `SIZE_MAX` is no limit.
 */
kinglet_status kinglet_generation_options_set_context_limit(struct kinglet_generation_options *options,
                                                            size_t tokens);

/**
 * Drafts up to `tokens` tokens at a time from earlier occurrences of the last words and verifies
 * them in one step, which is faster when a text quotes or repeats. The answer is the same as
 * without. At most 64; 6 is usual; 0, the default, drafts nothing.
 *
 * Between two calls of `kinglet_generation_next` the session is ahead of the answer: other calls
 * on it return `KINGLET_POISONED` until the answer is complete, stopped or deleted.
 */
kinglet_status kinglet_generation_options_set_speculation(struct kinglet_generation_options *options,
                                                          size_t tokens);

/**
 * Like `kinglet_generation_options_set_speculation`, but `draft` drafts the tokens: a smaller
 * model with the same tokenizer. The options keep it in memory. Null removes it.
 */
kinglet_status kinglet_generation_options_set_draft_model(struct kinglet_generation_options *options,
                                                          const struct kinglet_model *draft,
                                                          size_t tokens);

/**
 * Like `kinglet_generation_options_set_speculation`, but the model's own prediction head drafts the
 * tokens. The model must have been opened with `kinglet_model_options_set_prediction_head`;
 * otherwise creating a generation with these options returns `KINGLET_INVALID_ARGUMENT`. 2 is
 * usual. A draft model that is set too goes before.
 */
kinglet_status kinglet_generation_options_set_head_speculation(struct kinglet_generation_options *options,
                                                               size_t tokens);

/**
 * Sets the tools that the model may call in a chat: a JSON list of descriptions in the form that
 * its template expects. Null for none.
 */
kinglet_status kinglet_generation_options_set_tools(struct kinglet_generation_options *options,
                                                    const char *json);

/**
 * Sets variables of the chat template: a JSON object such as `{"enable_thinking": false}`. Null
 * for none.
 */
kinglet_status kinglet_generation_options_set_variables(struct kinglet_generation_options *options,
                                                        const char *json);

/**
 * Selects a chat template by name, if the model has several. Null selects the default: `tool_use`
 * if there are tools and a template of that name, else `default`.
 */
kinglet_status kinglet_generation_options_set_template(struct kinglet_generation_options *options,
                                                       const char *name);

/**
 * Sets the time that a chat template sees, as local time in seconds since 1970 (UTC plus the time
 * zone's offset). The default is the current local time if `TZ` or `/etc/localtime` names the
 * zone, else (on Windows and Android) UTC.
 */
kinglet_status kinglet_generation_options_set_now(struct kinglet_generation_options *options,
                                                  int64_t seconds);

/* ==== Text and tokens ==== */

/**
 * Returns the tokenizer of an open model; it may outlive the model. Free it with
 * `kinglet_tokenizer_delete`.
 */
kinglet_status kinglet_model_tokenizer(const struct kinglet_model *model,
                                       struct kinglet_tokenizer **tokenizer);

/**
 * Loads the tokenizer of the model folder `path` (`tokenizer.json`) without the model. Free it
 * with `kinglet_tokenizer_delete`.
 */
kinglet_status kinglet_tokenizer_open(const char *path, struct kinglet_tokenizer **tokenizer);

/**
 * Deletes a tokenizer. Null is allowed.
 */
kinglet_status kinglet_tokenizer_delete(struct kinglet_tokenizer *tokenizer);

/**
 * Options of `kinglet_tokenizer_encode`; combine them with `|`.
 */
enum kinglet_encode_flags
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Adds the tokens that the model expects at the beginning or end of a text.
   */
  KINGLET_ENCODE_ADD_SPECIAL = 1,
  /**
   * Parses text such as `<|im_end|>` as the special token of that name. Do not use it for
   * untrusted text.
   */
  KINGLET_ENCODE_PARSE_SPECIAL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_encode_flags kinglet_encode_flags;
#else
typedef uint32_t kinglet_encode_flags;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Converts `length` bytes of UTF-8 to tokens. `flags` are `enum kinglet_encode_flags` combined
 * with `|`, or 0. Free the tokens with `kinglet_free`, even if there are none.
 */
kinglet_status kinglet_tokenizer_encode(const struct kinglet_tokenizer *tokenizer,
                                        const char *text,
                                        size_t length,
                                        uint32_t flags,
                                        uint32_t **tokens,
                                        size_t *count);

/**
 * Converts tokens to text, without special tokens if `skip_special` is not 0. Tokens that the
 * tokenizer doesn't know have no text. The text ends with a NUL, which `length` (may be null) does
 * not count. Free it with `kinglet_free`.
 */
kinglet_status kinglet_tokenizer_decode(const struct kinglet_tokenizer *tokenizer,
                                        const uint32_t *tokens,
                                        size_t count,
                                        int32_t skip_special,
                                        char **text,
                                        size_t *length);

/**
 * Returns the number of tokens in the vocabulary. Their ids may have gaps.
 */
kinglet_status kinglet_tokenizer_vocabulary(const struct kinglet_tokenizer *tokenizer, size_t *count);

/**
 * Finds the id of a token by its exact text in the vocabulary (`<|im_end|>`). Returns
 * `KINGLET_NOT_FOUND` if there is none.
 */
kinglet_status kinglet_tokenizer_token(const struct kinglet_tokenizer *tokenizer,
                                       const char *name,
                                       uint32_t *token);

/**
 * Creates a decoder for a new text; special tokens have no text if `skip_special` is not 0. Free
 * it with `kinglet_decoder_delete`; it may outlive the tokenizer.
 */
kinglet_status kinglet_decoder_create(const struct kinglet_tokenizer *tokenizer,
                                      int32_t skip_special,
                                      struct kinglet_decoder **decoder);

/**
 * Deletes a decoder. Null is allowed.
 */
kinglet_status kinglet_decoder_delete(struct kinglet_decoder *decoder);

/**
 * Takes the next token and returns the text that is now final, often the empty text. `length` may
 * be null. Free the text with `kinglet_free`.
 */
kinglet_status kinglet_decoder_push(struct kinglet_decoder *decoder,
                                    uint32_t token,
                                    char **text,
                                    size_t *length);

/**
 * Ends the text: returns what was held back, with U+FFFD for an incomplete character, and starts a
 * new text. `length` may be null. Free the text with `kinglet_free`.
 */
kinglet_status kinglet_decoder_finish(struct kinglet_decoder *decoder, char **text, size_t *length);

/* ==== Token by token, without a generation ==== */

/**
 * Feeds `count` tokens, at least one, to the session. Its logits are then those after the last
 * token.
 *
 * After a cancellation the session holds the tokens that were fed before it: see
 * `kinglet_session_position`. If a token is out of range or the session would be too full, nothing
 * changes.
 */
kinglet_status kinglet_session_feed(struct kinglet_session *session, const uint32_t *tokens, size_t count);

/**
 * Feeds a text of `length` bytes: `kinglet_tokenizer_encode` with `flags`, then
 * `kinglet_session_feed`.
 */
kinglet_status kinglet_session_feed_text(struct kinglet_session *session,
                                         const char *text,
                                         size_t length,
                                         uint32_t flags);

/**
 * Writes the logits after the last token to `logits`, which has room for `count` numbers;
 * `kinglet_model_vocabulary` are needed. Returns `KINGLET_INVALID_STATE` if there are none:
 * nothing was fed, or the session was rewound to a position without logits.
 */
kinglet_status kinglet_session_logits(const struct kinglet_session *session, float *logits, size_t count);

/**
 * Returns the tokens that the session holds. Free them with `kinglet_free`, even if there are
 * none.
 */
kinglet_status kinglet_session_tokens(const struct kinglet_session *session,
                                      uint32_t **tokens,
                                      size_t *count);

/**
 * Runs one step of several sessions of one model, which costs little more than a step of one:
 * session `i` of `sessions` takes `counts[i]` tokens from `tokens[i]`. The `count` sessions must
 * be different and not in use, and each takes at least one token.
 *
 * After a cancellation (through any of the sessions) or a refused argument no session has changed.
 */
kinglet_status kinglet_step(struct kinglet_session *const *sessions,
                            const uint32_t *const *tokens,
                            const size_t *counts,
                            size_t count);

/**
 * Returns the number of floats in a token's embedding.
 */
kinglet_status kinglet_model_embedding_width(const struct kinglet_model *model, size_t *width);

/**
 * Writes the embeddings of `count` tokens to `vectors`, one after another. `vectors` has room for
 * `floats` numbers; `count` times `kinglet_model_embedding_width` are needed.
 * `kinglet_session_feed_embeddings` takes such vectors.
 */
kinglet_status kinglet_model_embed(const struct kinglet_model *model,
                                   const uint32_t *tokens,
                                   size_t count,
                                   float *vectors,
                                   size_t floats);

/**
 * Feeds vectors to the session in place of the embeddings of tokens (`kinglet_model_embed`), for
 * example a picture encoded by another model. `vectors` has `floats` numbers, a multiple of
 * `kinglet_model_embedding_width`, all finite. Works with every model on every backend.
 *
 * Among the session's tokens each vector appears as a number from 2^31 on. Equal vectors have
 * equal numbers within this process, as long as a session, snapshot or prefix cache holds the
 * vector. Otherwise vectors behave like tokens, except that a rewind that would have to recompute
 * them returns `KINGLET_NOT_REACHABLE`. After a cancellation or a refusal nothing has changed.
 */
kinglet_status kinglet_session_feed_embeddings(struct kinglet_session *session,
                                               const float *vectors,
                                               size_t floats);

/* ==== Copies, rewinding, files ==== */

/**
 * Copies a session. Both continue from here independently. Free the fork with
 * `kinglet_session_delete`.
 */
kinglet_status kinglet_session_fork(const struct kinglet_session *session, struct kinglet_session **fork);

/**
 * Rewinds the session to its first `tokens` tokens. A recurrent layer can't forget tokens, so it
 * starts from the nearest earlier state that was retained, or from the beginning, and recomputes
 * the tokens since. `computed` (may be null) receives their number.
 *
 * With `replay` 0 nothing is recomputed: a position without a retained state is
 * `KINGLET_NOT_REACHABLE`, with the nearest positions in the message, and so is a position after
 * the session's end. After a cancellation the session may hold fewer than `tokens`.
 */
kinglet_status kinglet_session_rewind(struct kinglet_session *session,
                                      size_t tokens,
                                      int32_t replay,
                                      size_t *computed);

/**
 * Retains the current state, so that `kinglet_session_rewind` can return to this position. A
 * session retains 16 marks; a further one replaces the oldest.
 */
kinglet_status kinglet_session_mark(struct kinglet_session *session);

/**
 * Takes a snapshot of the session. Free it with `kinglet_snapshot_delete`; it may outlive the
 * session.
 */
kinglet_status kinglet_snapshot_create(const struct kinglet_session *session,
                                       struct kinglet_snapshot **snapshot);

/**
 * Deletes a snapshot. Null is allowed.
 */
kinglet_status kinglet_snapshot_delete(struct kinglet_snapshot *snapshot);

/**
 * Creates a session that continues from the snapshot. Free it with `kinglet_session_delete`.
 */
kinglet_status kinglet_snapshot_session(const struct kinglet_snapshot *snapshot,
                                        struct kinglet_session **session);

/**
 * Restores the session to a snapshot of itself or of another session of the same model. A poisoned
 * session becomes valid again. A snapshot of another model is `KINGLET_INVALID_STATE`.
 */
kinglet_status kinglet_session_restore(struct kinglet_session *session,
                                       const struct kinglet_snapshot *snapshot);

/**
 * Saves the session to the file `path`, which is replaced as a whole or not at all. Only the same
 * model can load it, on any backend.
 */
kinglet_status kinglet_session_save(const struct kinglet_session *session, const char *path);

/**
 * Saves the session to memory, `length` bytes. Free them with `kinglet_free`.
 */
kinglet_status kinglet_session_save_bytes(const struct kinglet_session *session, void **data, size_t *length);

/**
 * Loads a session from a file written by `kinglet_session_save`. A damaged file, or one of another
 * model, is `KINGLET_BAD_SAVED_STATE`, with the difference in the message. Free the session with
 * `kinglet_session_delete`.
 */
kinglet_status kinglet_session_load(const struct kinglet_model *model,
                                    const char *path,
                                    struct kinglet_session **session);

/**
 * Loads a session from `length` bytes returned by `kinglet_session_save_bytes` or read from a
 * saved file. See `kinglet_session_load`.
 */
kinglet_status kinglet_session_load_bytes(const struct kinglet_model *model,
                                          const void *data,
                                          size_t length,
                                          struct kinglet_session **session);

/**
 * Returns the session's memory in bytes: `state` for its current state, `retained` for earlier
 * states. Either pointer may be null.
 */
kinglet_status kinglet_session_memory(const struct kinglet_session *session,
                                      uint64_t *state,
                                      uint64_t *retained);

/* ==== Options for opening a model ==== */

/**
 * Creates options with the defaults: the best backend, its own choice of threads, no context
 * limit. Free them with `kinglet_model_options_delete`.
 */
kinglet_status kinglet_model_options_create(struct kinglet_model_options **options);

/**
 * Deletes options. Null is allowed.
 */
kinglet_status kinglet_model_options_delete(struct kinglet_model_options *options);

/**
 * Called while a model is opened, on the thread that opens it, with the number of bytes done and
 * in total. Return 0 to continue and any other value to cancel; opening then returns
 * `KINGLET_CANCELLED`. It must return normally: no exception, no `longjmp`.
 */
typedef int32_t (*kinglet_progress_callback)(void *user, uint64_t done, uint64_t total);

/**
 * Sets the backend: `"auto"`, which uses a discrete or integrated GPU if there is one, `"cpu"`, or
 * a result of `kinglet_devices_backend`.
 */
kinglet_status kinglet_model_options_set_backend(struct kinglet_model_options *options, const char *backend);

/**
 * Sets the adapter of a GPU backend, as returned by `kinglet_devices_adapter`; -1, the default, is
 * the best one.
 */
kinglet_status kinglet_model_options_set_adapter(struct kinglet_model_options *options, int64_t adapter);

/**
 * Sets a folder for caches that make the next start faster: compiled kernels and results of the
 * self-test. It must belong to the program alone. Null, the default, caches nothing.
 */
kinglet_status kinglet_model_options_set_cache_dir(struct kinglet_model_options *options, const char *folder);

/**
 * Sets whether the kernels that a model needs are tested on small inputs before they run on a GPU
 * (1, the default), so that driver bugs are worked around or reported, or not (0).
 */
kinglet_status kinglet_model_options_set_self_test(struct kinglet_model_options *options, int32_t test);

/**
 * Limits attention to the last `window` positions and the first `sinks`, which bounds the memory
 * of a session. 0 and 0, the default, for no limit.
 */
kinglet_status kinglet_model_options_set_attention_window(struct kinglet_model_options *options,
                                                          size_t window,
                                                          size_t sinks);

/**
 * Sets the bits per element of the key/value cache: 32, the default, 8 or 4, which changes answers
 * a little. The cache shrinks to 28 or 16 %.
 */
kinglet_status kinglet_model_options_set_kv_bits(struct kinglet_model_options *options, int32_t bits);

/**
 * Sets the bits per element of recurrent states between steps: 32, the default, or 16. A GPU needs
 * 16-bit floats for that.
 */
kinglet_status kinglet_model_options_set_state_bits(struct kinglet_model_options *options, int32_t bits);

/**
 * Sets the number of CPU threads, from 1 to 512. 0, the default, is one for each physical core.
 */
kinglet_status kinglet_model_options_set_threads(struct kinglet_model_options *options, size_t threads);

/**
 * Sets the maximum number of tokens computed in one step, from 1 to 65536, which bounds the
 * working memory. 0, the default, is 512 on the CPU and 2048 on a GPU.
 */
kinglet_status kinglet_model_options_set_chunk(struct kinglet_model_options *options, size_t tokens);

/**
 * Sets the maximum number of tokens of a session. 0, the default, is no limit.
 */
kinglet_status kinglet_model_options_set_context_limit(struct kinglet_model_options *options, size_t tokens);

/**
 * Sets whether tensors that the model does not use are an error (1) or only a warning in the log
 * (0, the default). Missing tensors are always an error.
 */
kinglet_status kinglet_model_options_set_strict(struct kinglet_model_options *options, int32_t strict);

/**
 * Sets whether the checkpoint's head for multi-token prediction is opened too (1), so that it can
 * draft tokens: `kinglet_generation_options_set_head_speculation`. A checkpoint without such a head
 * is then an error. 0 is the default.
 */
kinglet_status kinglet_model_options_set_prediction_head(struct kinglet_model_options *options, int32_t open);

/**
 * The inverse of the newer `kinglet_model_options_set_strict`: whether tensors that the model does
 * not use are only a warning in the log (1, the default) or an error (0).
 */
kinglet_status kinglet_model_options_set_allow_surplus(struct kinglet_model_options *options, int32_t allow);

/**
 * Sets how many bytes of earlier states a session may keep, so that a prompt continues from the
 * longest prefix that was computed before. The default is 256 MiB; 0 keeps none.
 */
kinglet_status kinglet_model_options_set_cache_bytes(struct kinglet_model_options *options, size_t bytes);

/**
 * Sets whether opening reads all weights into memory (1), so that the first answer doesn't wait
 * for them, or leaves them to be read when needed (0, the default), so that opening takes
 * milliseconds.
 */
kinglet_status kinglet_model_options_set_fetch(struct kinglet_model_options *options, int32_t fetch);

/**
 * Sets a callback that is called with `user` while a model is opened: at the beginning, at the
 * end, and, with `kinglet_model_options_set_fetch`, every 16 MiB. Null, the default, for none.
 * Kinglet only passes `user` back.
 */
kinglet_status kinglet_model_options_set_progress(struct kinglet_model_options *options,
                                                  kinglet_progress_callback progress,
                                                  void *user);

/* ==== Devices and memory ==== */

/**
 * Lists the devices that models can run on: first the CPU, which is always there, then the
 * adapters that Kinglet's kernels can run on (GPUs, and software that emulates one). This takes
 * some milliseconds.
 *
 * Free the list with `kinglet_devices_delete`.
 */
kinglet_status kinglet_devices_create(struct kinglet_devices **devices);

/**
 * Deletes a list of devices. Null is allowed.
 */
kinglet_status kinglet_devices_delete(struct kinglet_devices *devices);

/**
 * Returns the number of devices in the list.
 */
kinglet_status kinglet_devices_count(const struct kinglet_devices *devices, size_t *count);

/**
 * Returns the name of a device, for people. Free the text with `kinglet_free`.
 */
kinglet_status kinglet_devices_name(const struct kinglet_devices *devices, size_t index, char **name);

/**
 * Returns the backend of a device, for `kinglet_model_options_set_backend`. Free the text with
 * `kinglet_free`.
 */
kinglet_status kinglet_devices_backend(const struct kinglet_devices *devices, size_t index, char **backend);

/**
 * Returns the index of a device among the adapters of its backend, for
 * `kinglet_model_options_set_adapter`; -1 for the CPU.
 */
kinglet_status kinglet_devices_adapter(const struct kinglet_devices *devices, size_t index, int64_t *adapter);

/**
 * Estimates, within milliseconds, the memory of the model in the folder `path` with one session of
 * `context` tokens, in bytes: its weights (on the CPU they are mapped, so the system can reclaim
 * them), the session's state, and working memory. `options` and each out pointer may be null. A
 * context of more than 64 Mi tokens is `KINGLET_TOO_LARGE`. Thread-safe.
 */
kinglet_status kinglet_estimate(const char *path,
                                const struct kinglet_model_options *options,
                                size_t context,
                                uint64_t *weights,
                                uint64_t *state,
                                uint64_t *working);

/**
 * Runs the model over `count` tokens, on the CPU, in windows of 2,048 that start from an empty
 * state, and counts which experts they use. `json` is a list with an object for each layer with
 * experts, in order: `layer`, `experts_per_token`, and by expert `tokens` (how many used it) and
 * `weights` (the sum of the router's weights). It is empty if the model has no experts. Free it
 * with `kinglet_free`.
 */
kinglet_status kinglet_model_expert_use(const struct kinglet_model *model,
                                        const uint32_t *tokens,
                                        size_t count,
                                        char **json);

/* ==== Models that are not in a folder ==== */

/**
 * Creates an empty list of files. Free it with `kinglet_files_delete`.
 */
kinglet_status kinglet_files_create(struct kinglet_files **files);

/**
 * Deletes a list of files. Null is allowed. A model that was opened from it keeps what it needs.
 */
kinglet_status kinglet_files_delete(struct kinglet_files *files);

/**
 * Adds `length` bytes of the open file `fd`, starting at `offset`. Neither needs any alignment.
 * Android's `AAsset_openFileDescriptor64` returns such a region for an asset that is stored
 * uncompressed.
 *
 * The descriptor is duplicated: yours stays open and its position does not move. The file must not
 * change while the model is open. Unix only; other systems return `KINGLET_UNSUPPORTED`.
 */
kinglet_status kinglet_files_add_fd(struct kinglet_files *files,
                                    const char *name,
                                    int32_t fd,
                                    uint64_t offset,
                                    uint64_t length);

/**
 * Adds a file from `length` bytes in memory. The bytes are copied, so prefer
 * `kinglet_files_add_fd` for weights.
 */
kinglet_status kinglet_files_add_bytes(struct kinglet_files *files,
                                       const char *name,
                                       const void *data,
                                       size_t length);

/**
 * Opens a model whose files are not in a folder. The list is empty afterwards, even if this fails,
 * and can be deleted. `options` may be null. Free the model with `kinglet_model_delete`.
 */
kinglet_status kinglet_model_open_files(struct kinglet_files *files,
                                        const struct kinglet_model_options *options,
                                        struct kinglet_model **model);

/**
 * Like `kinglet_estimate`, for a model whose files are not in a folder. The list does not change,
 * so `kinglet_model_open_files` can take it.
 */
kinglet_status kinglet_estimate_files(const struct kinglet_files *files,
                                      const struct kinglet_model_options *options,
                                      size_t context,
                                      uint64_t *weights,
                                      uint64_t *state,
                                      uint64_t *working);

/* ==== The log ==== */

/**
 * Severity of a log message.
 */
enum kinglet_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * No messages.
   */
  KINGLET_LOG_OFF = 0,
  /**
   * Errors.
   */
  KINGLET_LOG_ERROR = 1,
  /**
   * Possible problems.
   */
  KINGLET_LOG_WARN = 2,
  /**
   * Progress.
   */
  KINGLET_LOG_INFO = 3,
  /**
   * Details for developers.
   */
  KINGLET_LOG_DEBUG = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_log_level kinglet_log_level;
#else
typedef uint32_t kinglet_log_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Called with a message and its `enum kinglet_log_level`, on any thread and possibly on several at
 * once. The text is UTF-8 and valid until the callback returns. It must return normally (no
 * exception, no `longjmp`) and must not call `kinglet_log_set`.
 */
typedef void (*kinglet_log_callback)(void *user, uint32_t level, const char *message);

/**
 * Sets the log callback of the process: messages up to `level` (an `enum kinglet_log_level`) go to
 * `callback` with `user`. Null, the default, disables the log. Kinglet itself never writes to
 * standard output or standard error.
 *
 * When this returns, no earlier callback is running or will be called. Any thread may call it, but
 * the callback itself gets `KINGLET_BUSY`.
 */
kinglet_status kinglet_log_set(kinglet_log_callback callback, void *user, uint32_t level);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KINGLET_H */
