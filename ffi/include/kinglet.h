/*
 * Kinglet: recurrent and hybrid language models on people's own devices.
 *
 * A whole program, which opens a model, makes a session, and prints an answer:
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
 * cc program.c -lkinglet builds it, with -I and -L where the library is not installed, or with what pkg-config says.
 *
 * Errors. Every function that can fail returns a kinglet_status: KINGLET_OK is 0, errors are negative, and then kinglet_last_error() says
 * in words what was wrong, until the next call on the thread fails; kinglet_last_error_copy() keeps it. A call that fails writes nothing
 * to its results (kinglet_step and those that compute say what becomes of a session). The program above is how to use them: handles begin
 * as NULL, the first error goes to the end, and the end deletes everything, since NULL is fine to delete.
 *
 * Handles. A kinglet_... pointer is a handle that only Kinglet can look into. What a _create, _open, _fork or _load function gives is the
 * program's, which gives it to the matching _delete function once. A handle that was deleted, is of another kind or was made up is found
 * out, and the call returns KINGLET_INVALID_HANDLE. Objects keep what they need of one another: they can be deleted in any order.
 *
 * Memory. What is given out through a char **, uint32_t ** or void ** is the program's, which gives it to kinglet_free, unless the function
 * says otherwise. What a program passes in is copied, and is only read during the call.
 *
 * Text is UTF-8; anything else is KINGLET_INVALID_UTF8. A text without a length ends with a NUL. A length of 0 is an
 * empty text, and its pointer may be null. Texts above 256 MiB and more than 64 Mi tokens are KINGLET_TOO_LARGE. Paths are, on Unix, any bytes.
 *
 * Threads. Any thread may call anything; what is made for one call at a time says KINGLET_BUSY to the second one. Callbacks run on the
 * thread that called, except that of the log. Different sessions of a model may be used on different threads; their steps are computed in turns.
 *
 * The host. Kinglet writes nothing to standard output or standard error, installs no signal handlers and doesn't end the process. A fault of
 * its own is caught: KINGLET_INTERNAL. What can't be caught is a pointer to what is not there, and a model's file that is cut short while a
 * step reads it (it is looked at before each step).
 *
 * The sections come in the order in which a program needs them: errors, versions, objects, memory, models, sessions, answers, and from
 * there on what only some programs need.
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
 * What a call came to. Errors are negative; a new one may be added, so treat every negative number as an error. What
 * went wrong in words is `kinglet_last_error`.
 */
enum kinglet_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It was done.
   */
  KINGLET_OK = 0,
  /**
   * `kinglet_generation_next` only: the answer is complete, there is no further token.
   */
  KINGLET_DONE = 1,
  /**
   * An argument is null where it must not be, out of range, or doesn't fit the others.
   */
  KINGLET_INVALID_ARGUMENT = -1,
  /**
   * A handle is not (or no longer) one: it was deleted, is of another kind, or never was one.
   */
  KINGLET_INVALID_HANDLE = -2,
  /**
   * A text is not UTF-8.
   */
  KINGLET_INVALID_UTF8 = -3,
  /**
   * A length or a count is larger than anything that is taken.
   */
  KINGLET_TOO_LARGE = -4,
  /**
   * The object is in use by another call: on another thread, or the one that this callback was called from.
   */
  KINGLET_BUSY = -5,
  /**
   * The call was cancelled, by `kinglet_session_cancel` or by a progress callback.
   */
  KINGLET_CANCELLED = -6,
  /**
   * A file or folder is not there.
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
   * This build, backend or system can't do it.
   */
  KINGLET_UNSUPPORTED = -10,
  /**
   * There is no memory for it.
   */
  KINGLET_OUT_OF_MEMORY = -11,
  /**
   * An earlier call on this session failed half-way. Reset it, restore a snapshot, or delete it.
   */
  KINGLET_POISONED = -12,
  /**
   * The session would hold more tokens than its limit.
   */
  KINGLET_CONTEXT_FULL = -13,
  /**
   * The session can't go back to this position.
   */
  KINGLET_NOT_REACHABLE = -14,
  /**
   * JSON that can't be read, a template that refuses the messages, or a tokenizer that fails on a text.
   */
  KINGLET_TEXT = -15,
  /**
   * The sampler can't choose a token.
   */
  KINGLET_SAMPLING = -16,
  /**
   * The objects are not in a state for this call: another model's session, or a generation whose session went on without it.
   */
  KINGLET_INVALID_STATE = -17,
  /**
   * A saved session is damaged, or not this model's.
   */
  KINGLET_BAD_SAVED_STATE = -18,
  /**
   * The program was compiled for another version of this interface.
   */
  KINGLET_ABI_MISMATCH = -19,
  /**
   * A fault of Kinglet that was caught. Please report it. A session that the call worked on is poisoned.
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
 * What went wrong in the last call on this thread that failed, as one line of UTF-8; the empty string if none has.
 *
 * Never null. The text is Kinglet's and stays until the next call on the same thread that fails, or until the thread ends:
 * `kinglet_last_error_copy` keeps it. Other threads have their own. It is made for people; programs look at the status.
 */
const char *kinglet_last_error(void);

/**
 * Copies what `kinglet_last_error` says to `buffer`, which has room for `size` bytes, and gives the length of the whole text without its NUL, as
 * `snprintf` does. What doesn't fit is left out, never half a character, and a NUL ends what is there. With `size` 0 `buffer` may be
 * null, and only the length is given. It can't fail, and leaves the text of `kinglet_last_error` as it is.
 */
size_t kinglet_last_error_copy(char *buffer,
                               size_t size);

/* ==== Versions ==== */

/**
 * The version of this interface. It grows when a program that was compiled before no longer works; what is only added doesn't
 * change it.
 */
#define KINGLET_ABI_VERSION 1

/**
 * Call it first, as `kinglet_check_abi(KINGLET_ABI_VERSION)`: anything but `KINGLET_OK` says that the program was compiled for another library
 * than it runs with, and must not call anything else but `kinglet_last_error`.
 */
kinglet_status kinglet_check_abi(uint32_t version);

/**
 * The version of the interface that the library was built with, to be compared with `KINGLET_ABI_VERSION`.
 */
uint32_t kinglet_abi_version(void);

/**
 * The version of the library, as `"0.1.0"`: a text that stays for ever.
 */
const char *kinglet_version(void);

/* ==== Objects ====
 * What handles stand for. A chat needs a model, a session and a generation.
 */

/**
 * An open model: weights and all that is needed to compute. Any number of threads may use it at once; steps of its sessions are computed
 * one after the other.
 */
typedef struct kinglet_model kinglet_model;

/**
 * One sequence of tokens and the state that it has left in the model. One thread at a time: a call while another one works on the session
 * gets `KINGLET_BUSY` and changes nothing. Only `kinglet_session_cancel`, `kinglet_session_clear_cancel` and `kinglet_session_delete` may be called at any time.
 * Threads may take turns.
 *
 * A call that fails half-way poisons the session, and later calls get `KINGLET_POISONED` until it is reset or restored. One
 * that was cancelled, or refused its arguments, does not.
 */
typedef struct kinglet_session kinglet_session;

/**
 * One answer while it is generated, and afterwards. It belongs to a session, which is in use only during calls; the session must not be fed, rewound or
 * given to another generation before the answer is complete (`KINGLET_INVALID_STATE` says that it was). One thread at a time.
 */
typedef struct kinglet_generation kinglet_generation;

/**
 * How an answer is generated. New options hold what the model's authors set. They are copied when a generation begins, so that they can be
 * changed and deleted afterwards. Any thread may use them.
 */
typedef struct kinglet_generation_options kinglet_generation_options;

/**
 * How a model is opened. New options hold the defaults. They are copied when a model is opened, so that they can be changed
 * and deleted afterwards. Any thread may use them.
 */
typedef struct kinglet_model_options kinglet_model_options;

/**
 * A tokenizer. Any number of threads may use it at once.
 */
typedef struct kinglet_tokenizer kinglet_tokenizer;

/**
 * Turns tokens that come one by one into text, never half a character. One thread at a time: another one gets `KINGLET_BUSY`.
 */
typedef struct kinglet_decoder kinglet_decoder;

/**
 * What a session was at a moment. It never changes; any number of threads may use it. It shares memory with the session until that goes on.
 */
typedef struct kinglet_snapshot kinglet_snapshot;

/**
 * The files of a model by the names that they have in a model folder, for `kinglet_model_open_files`. Needed are
 * `config.json` and `model.safetensors` (or `model.safetensors.index.json` and its shards); for text `tokenizer.json` and
 * `tokenizer_config.json`; for chat `chat_template.jinja`, where the model has one; for its settings `generation_config.json`. Any thread may use it.
 */
typedef struct kinglet_files kinglet_files;

/**
 * A list of devices, as they were when it was made.
 */
typedef struct kinglet_devices kinglet_devices;

/* ==== Memory ==== */

/**
 * Frees memory that a call gave to the program: a text, tokens, the bytes of a saved session.
 *
 * Null is fine. What was freed already, or is not Kinglet's, is left alone and gives `KINGLET_INVALID_HANDLE`. Any thread may call it.
 */
kinglet_status kinglet_free(void *memory);

/* ==== Models ==== */

/**
 * Opens the model in the folder `path`: `config.json` and `model.safetensors` or its shards, as they come from Hugging Face, or a
 * `models--ORG--NAME` of its cache. `options` may be null. The weights are mapped, not read: this takes milliseconds unless the options say otherwise.
 *
 * The model is the program's: `kinglet_model_delete`. Sessions, generations and tokenizers that are made from it keep what they need of it.
 * While a model is open its files must not be written to: replace a file by renaming another one over it.
 */
kinglet_status kinglet_model_open(const char *path,
                                  const struct kinglet_model_options *options,
                                  struct kinglet_model **model);

/**
 * Deletes a model. Null is fine. What was made from it stays usable, and its memory is given back with the last of them.
 */
kinglet_status kinglet_model_delete(struct kinglet_model *model);

/**
 * What the model is and what it runs on, in a line for people. The text is the program's: `kinglet_free`.
 */
kinglet_status kinglet_model_description(const struct kinglet_model *model, char **text);

/**
 * How many logits the model gives for a token; the numbers of tokens are below this.
 */
kinglet_status kinglet_model_vocabulary(const struct kinglet_model *model, size_t *count);

/* ==== Sessions ==== */

/**
 * A session without tokens. It is the program's: `kinglet_session_delete`.
 */
kinglet_status kinglet_session_create(const struct kinglet_model *model, struct kinglet_session **session);

/**
 * Deletes a session. Null is fine. A call that works on it on another thread is not disturbed (cancel it first); a generation keeps
 * its session until it is deleted itself.
 */
kinglet_status kinglet_session_delete(struct kinglet_session *session);

/**
 * Makes the session one without tokens; also a poisoned one, which is sound again.
 */
kinglet_status kinglet_session_reset(struct kinglet_session *session);

/**
 * How many tokens the session holds.
 */
kinglet_status kinglet_session_position(const struct kinglet_session *session, size_t *tokens);

/**
 * Cancels what the session is doing, or, if it is doing nothing, the next thing that computes. From any thread, at any time, also from a
 * callback. The call that is cancelled returns `KINGLET_CANCELLED` within one step (of several tokens: within one layer's operation, on
 * the CPU) and takes the cancellation away. The session stays sound.
 */
kinglet_status kinglet_session_cancel(struct kinglet_session *session);

/**
 * Takes a cancellation away that came too late for the call that it was meant for. From any thread, at any time.
 */
kinglet_status kinglet_session_clear_cancel(struct kinglet_session *session);

/* ==== Answers ====
 * A generation is created with a prompt, then run: token by token, or at once with a callback.
 */

/**
 * The answer to a conversation. `messages` is JSON, as `[{"role": "user", "content": "Hi"}]`, with the roles and further fields that the model's template knows; all
 * of the conversation so far, each time. `options` may be null. Nothing is computed yet: the first call of `kinglet_generation_next` does that.
 *
 * Whatever the session held, it will hold this conversation. Of what it has computed before, also for other conversations, the longest beginning is used again, so that a
 * turn costs the tokens that are new (`KINGLET_STAT_REUSED_TOKENS`).
 *
 * The generation is the program's: `kinglet_generation_delete`.
 */
kinglet_status kinglet_generation_create_chat(struct kinglet_session *session,
                                              const char *messages,
                                              const struct kinglet_generation_options *options,
                                              struct kinglet_generation **generation);

/**
 * The same for a text of `length` bytes, cut into tokens with `flags` as by `kinglet_tokenizer_encode`.
 */
kinglet_status kinglet_generation_create_text(struct kinglet_session *session,
                                              const char *text,
                                              size_t length,
                                              uint32_t flags,
                                              const struct kinglet_generation_options *options,
                                              struct kinglet_generation **generation);

/**
 * An answer that goes on from `count` tokens, which are fed to the session first; none, and `tokens` null, go on from where the session is. `options` may
 * be null. Nothing is computed yet: the first call of `kinglet_generation_next` does that.
 *
 * The generation is the program's: `kinglet_generation_delete`.
 */
kinglet_status kinglet_generation_create(struct kinglet_session *session,
                                         const uint32_t *tokens,
                                         size_t count,
                                         const struct kinglet_generation_options *options,
                                         struct kinglet_generation **generation);

/**
 * The next token of the answer. `KINGLET_OK` gives the token and the text that has become certain with it: UTF-8 of `length` bytes with a NUL behind
 * it, often empty, never half a character. `KINGLET_DONE` says that the answer was complete: there is no token. Each of the three places may be null.
 *
 * The text is Kinglet's and stays until the next call with this generation. After `KINGLET_CANCELLED` the generation can be called again, and goes on.
 * After `KINGLET_DONE` the session holds the prompt and the answer without its stop token.
 */
kinglet_status kinglet_generation_next(struct kinglet_generation *generation,
                                       uint32_t *token,
                                       const char **text,
                                       size_t *length);

/**
 * Called for each token of an answer with `user`, the token, and the text that has become certain with it: UTF-8 of `length` bytes with a NUL behind
 * it, often empty, never half a character, gone when the call returns. Returns 0 to go on; anything else ends the answer.
 *
 * It runs on the thread that generates. It may call anything; calls on the same session, except `kinglet_session_cancel`, or on the same generation get
 * `KINGLET_BUSY`. It must return: no exception, no `longjmp`.
 */
typedef int32_t (*kinglet_token_callback)(void *user, uint32_t token, const char *text, size_t length);

/**
 * Generates the rest of the answer. `callback` may be null: the whole text is `kinglet_generation_text` afterwards.
 */
kinglet_status kinglet_generation_run(struct kinglet_generation *generation,
                                      kinglet_token_callback callback,
                                      void *user);

/**
 * Ends the answer here. The session then holds all tokens that were given out.
 */
kinglet_status kinglet_generation_stop(struct kinglet_generation *generation);

/**
 * Deletes a generation, complete or not. Null is fine. Delete it rather than letting it lie about: it keeps its session.
 */
kinglet_status kinglet_generation_delete(struct kinglet_generation *generation);

/**
 * The text of the answer so far. It ends with a NUL, which `length` (may be null) doesn't count, and is the program's: `kinglet_free`.
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
   * It has not.
   */
  KINGLET_FINISH_NONE = 0,
  /**
   * The model ended it with one of its stop tokens.
   */
  KINGLET_FINISH_STOP = 1,
  /**
   * A stop text appeared.
   */
  KINGLET_FINISH_STOP_TEXT = 2,
  /**
   * It has as many tokens as the options allow.
   */
  KINGLET_FINISH_MAX_TOKENS = 3,
  /**
   * Prompt and answer have as many tokens as the session may hold, or as the positions of the model were made for.
   */
  KINGLET_FINISH_CONTEXT_FULL = 4,
  /**
   * The program ended it: `kinglet_generation_stop`, or the token callback.
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
 * Why the answer ended: an `enum kinglet_finish`, `KINGLET_FINISH_NONE` before it has.
 */
kinglet_status kinglet_generation_finish(const struct kinglet_generation *generation, int32_t *finish);

/**
 * Numbers about an answer.
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
   * Those of them whose state was there already.
   */
  KINGLET_STAT_REUSED_TOKENS = 1,
  /**
   * Tokens of the answer, with the one that ended it.
   */
  KINGLET_STAT_GENERATED_TOKENS = 2,
  /**
   * Seconds for the prompt.
   */
  KINGLET_STAT_PREFILL_SECONDS = 3,
  /**
   * Seconds from the first call to the first token; 0 without one.
   */
  KINGLET_STAT_FIRST_TOKEN_SECONDS = 4,
  /**
   * Tokens of the prompt computed in a second; 0 if there were none.
   */
  KINGLET_STAT_PREFILL_RATE = 5,
  /**
   * Tokens of the answer in a second, after the first; 0 for fewer than two.
   */
  KINGLET_STAT_DECODE_RATE = 6,
  /**
   * Steps of the model for the answer, where tokens were guessed; else 0.
   */
  KINGLET_STAT_SPECULATION_STEPS = 7,
  /**
   * Tokens that were guessed.
   */
  KINGLET_STAT_DRAFTED_TOKENS = 8,
  /**
   * Guesses that were right.
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
 * A number about the answer: `stat` is an `enum kinglet_stat`.
 */
kinglet_status kinglet_generation_stat(const struct kinglet_generation *generation,
                                       uint32_t stat,
                                       double *value);

/**
 * The text that the model's template makes of messages, as for `kinglet_generation_create_chat`; of `options` (may be null) tools, variables, template and time count. The
 * text ends with a NUL, which `length` (may be null) doesn't count, and is the program's: `kinglet_free`.
 */
kinglet_status kinglet_model_render(const struct kinglet_model *model,
                                    const char *messages,
                                    const struct kinglet_generation_options *options,
                                    char **text,
                                    size_t *length);

/* ==== How an answer is generated ==== */

/**
 * Options that hold what the model's authors set. They are the program's: `kinglet_generation_options_delete`.
 */
kinglet_status kinglet_generation_options_create(struct kinglet_generation_options **options);

/**
 * Deletes options. Null is fine.
 */
kinglet_status kinglet_generation_options_delete(struct kinglet_generation_options *options);

/**
 * Numbers that say how a token is chosen. What is not set is what the model's `generation_config.json` says, and else the value in brackets, which changes
 * nothing. A model that is greedy by itself draws when something is set that only makes sense for draws, then with a top-k of 50 unless it is set, as
 * transformers does.
 */
enum kinglet_sampling
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Divisor of the logits (1); 0 takes the most probable token, always.
   */
  KINGLET_TEMPERATURE = 0,
  /**
   * Only so many of the most probable tokens (0: all).
   */
  KINGLET_TOP_K = 1,
  /**
   * Only the most probable tokens that together have this probability (1).
   */
  KINGLET_TOP_P = 2,
  /**
   * Only tokens with at least this share of the most probable one's probability (0).
   */
  KINGLET_MIN_P = 3,
  /**
   * Only the most typical tokens that together have this probability (1).
   */
  KINGLET_TYPICAL_P = 4,
  /**
   * Makes tokens less likely that are in the text already (1).
   */
  KINGLET_REPETITION_PENALTY = 5,
  /**
   * Subtracted from the logits of tokens that are in the text already (0).
   */
  KINGLET_PRESENCE_PENALTY = 6,
  /**
   * The same, once for each time that the token is there (0).
   */
  KINGLET_FREQUENCY_PENALTY = 7,
  /**
   * How many of the last tokens the three penalties look at (0: all).
   */
  KINGLET_PENALTY_LAST_N = 8,
  /**
   * Strength of the penalty on repeated sequences, "DRY" (0).
   */
  KINGLET_DRY_MULTIPLIER = 9,
  /**
   * Its growth with each token, at least 1 (1.75).
   */
  KINGLET_DRY_BASE = 10,
  /**
   * Repetitions shorter than this are free (2).
   */
  KINGLET_DRY_ALLOWED_LENGTH = 11,
  /**
   * How many of the last tokens it looks at (0: all).
   */
  KINGLET_DRY_LAST_N = 12,
  /**
   * How often the most probable tokens are excluded, "XTC" (0).
   */
  KINGLET_XTC_PROBABILITY = 13,
  /**
   * The probability from which on they are (0.1).
   */
  KINGLET_XTC_THRESHOLD = 14,
  /**
   * 1 applies the temperature after the stages that cut, as llama.cpp does; 0 before, as transformers does (0).
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
 * Sets a number that says how a token is chosen: `option` is an `enum kinglet_sampling`. What is out of its range is refused.
 */
kinglet_status kinglet_generation_options_set(struct kinglet_generation_options *options,
                                              uint32_t option,
                                              double value);

/**
 * Adds `bias` to the logit of `token`; negative infinity rules the token out.
 */
kinglet_status kinglet_generation_options_add_logit_bias(struct kinglet_generation_options *options,
                                                         uint32_t token,
                                                         float bias);

/**
 * The most tokens of the answer; 0, the default, is what the model says, or 2048.
 */
kinglet_status kinglet_generation_options_set_max_tokens(struct kinglet_generation_options *options,
                                                         size_t tokens);

/**
 * What the random numbers begin with: the same seed, prompt and options give the same answer. Without it, each answer has its own.
 */
kinglet_status kinglet_generation_options_set_seed(struct kinglet_generation_options *options,
                                                   uint64_t seed);

/**
 * Ends the answer where this text would appear, which is then not part of it. Any number may be added, to those of the model.
 */
kinglet_status kinglet_generation_options_add_stop(struct kinglet_generation_options *options,
                                                   const char *text);

/**
 * Ends the answer with this token, besides those of the model.
 */
kinglet_status kinglet_generation_options_add_stop_token(struct kinglet_generation_options *options,
                                                         uint32_t token);

/**
 * Whether the model's own stop tokens and texts end the answer (0, the default) or not (1).
 */
kinglet_status kinglet_generation_options_set_ignore_eos(struct kinglet_generation_options *options,
                                                         int32_t ignore);

/**
 * The most tokens of prompt and answer together, besides the session's own limit. 0, the default, is what the positions of the model were made for, if they
 * end; `SIZE_MAX` is no limit.
 */
kinglet_status kinglet_generation_options_set_context_limit(struct kinglet_generation_options *options,
                                                            size_t tokens);

/**
 * Guesses up to `tokens` tokens at a time by what followed the same words before, and verifies them in one step: faster where a text quotes or repeats. The answer is
 * the one without. At most 64; 6 is usual; 0, the default, guesses nothing.
 *
 * Between two calls of `kinglet_generation_next` such an answer has the session ahead of its tokens: other calls on it get `KINGLET_POISONED` until the answer is
 * complete, stopped or deleted.
 */
kinglet_status kinglet_generation_options_set_speculation(struct kinglet_generation_options *options,
                                                          size_t tokens);

/**
 * The same with the guesses of `draft`, a smaller model with the same tokenizer, which the options keep. Null for none.
 */
kinglet_status kinglet_generation_options_set_draft_model(struct kinglet_generation_options *options,
                                                          const struct kinglet_model *draft,
                                                          size_t tokens);

/**
 * Tools that the model may call in a chat: a JSON list of their descriptions, as its template wants them. Null for none.
 */
kinglet_status kinglet_generation_options_set_tools(struct kinglet_generation_options *options,
                                                    const char *json);

/**
 * Variables that the chat template sees: a JSON object, as `{"enable_thinking": false}`. Null for none.
 */
kinglet_status kinglet_generation_options_set_variables(struct kinglet_generation_options *options,
                                                        const char *json);

/**
 * Which of the model's chat templates to use, by name, where it has several. Null for the default: `tool_use` if there are tools and such a template, else `default`.
 */
kinglet_status kinglet_generation_options_set_template(struct kinglet_generation_options *options,
                                                       const char *name);

/**
 * The time that a chat template sees, as seconds since 1970 by the clock on the wall (UTC and the time zone's offset). Without it, the local time now where the system
 * tells the zone in `TZ` or `/etc/localtime`, else (on Windows and Android) the time in UTC.
 */
kinglet_status kinglet_generation_options_set_now(struct kinglet_generation_options *options,
                                                  int64_t seconds);

/* ==== Text and tokens ==== */

/**
 * The tokenizer of an open model; it may outlive the model. It is the program's: `kinglet_tokenizer_delete`.
 */
kinglet_status kinglet_model_tokenizer(const struct kinglet_model *model,
                                       struct kinglet_tokenizer **tokenizer);

/**
 * Loads the tokenizer of the model folder `path` (`tokenizer.json`) without the model. It is the program's:
 * `kinglet_tokenizer_delete`.
 */
kinglet_status kinglet_tokenizer_open(const char *path, struct kinglet_tokenizer **tokenizer);

/**
 * Deletes a tokenizer. Null is fine.
 */
kinglet_status kinglet_tokenizer_delete(struct kinglet_tokenizer *tokenizer);

/**
 * What `kinglet_tokenizer_encode` does besides cutting text into tokens; to be joined with `|`.
 */
enum kinglet_encode_flags
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Adds the tokens that the model wants at the beginning or the end of a text.
   */
  KINGLET_ENCODE_ADD_SPECIAL = 1,
  /**
   * Takes a text like `<|im_end|>` for the special token of that name. Leave it out for text from people who are not trusted.
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
 * Cuts `length` bytes of UTF-8 into tokens; `flags` are `enum kinglet_encode_flags` joined with `|`, or 0. The tokens are the program's:
 * `kinglet_free`, also when there are none.
 */
kinglet_status kinglet_tokenizer_encode(const struct kinglet_tokenizer *tokenizer,
                                        const char *text,
                                        size_t length,
                                        uint32_t flags,
                                        uint32_t **tokens,
                                        size_t *count);

/**
 * Joins tokens into text; with `skip_special` not 0 without the special ones. Tokens that the tokenizer doesn't know have no text. The text ends with a NUL,
 * which `length` (may be null) doesn't count, and is the program's: `kinglet_free`.
 */
kinglet_status kinglet_tokenizer_decode(const struct kinglet_tokenizer *tokenizer,
                                        const uint32_t *tokens,
                                        size_t count,
                                        int32_t skip_special,
                                        char **text,
                                        size_t *length);

/**
 * How many tokens there are. Their numbers may have gaps.
 */
kinglet_status kinglet_tokenizer_vocabulary(const struct kinglet_tokenizer *tokenizer, size_t *count);

/**
 * The number of the token that is written exactly so in the vocabulary (`<|im_end|>`); `KINGLET_NOT_FOUND` if none is.
 */
kinglet_status kinglet_tokenizer_token(const struct kinglet_tokenizer *tokenizer,
                                       const char *name,
                                       uint32_t *token);

/**
 * A decoder at the beginning of a text; with `skip_special` not 0 special tokens have no text. It is the program's:
 * `kinglet_decoder_delete`, and may outlive the tokenizer.
 */
kinglet_status kinglet_decoder_create(const struct kinglet_tokenizer *tokenizer,
                                      int32_t skip_special,
                                      struct kinglet_decoder **decoder);

/**
 * Deletes a decoder. Null is fine.
 */
kinglet_status kinglet_decoder_delete(struct kinglet_decoder *decoder);

/**
 * Takes the next token and gives the text that is certain now: often none, and then the empty text. `length` may be null. The text is the
 * program's: `kinglet_free`.
 */
kinglet_status kinglet_decoder_push(struct kinglet_decoder *decoder,
                                    uint32_t token,
                                    char **text,
                                    size_t *length);

/**
 * Ends the text: gives what was held back, half a character as U+FFFD, and begins anew. `length` may be null. The text is the program's:
 * `kinglet_free`.
 */
kinglet_status kinglet_decoder_finish(struct kinglet_decoder *decoder,
                                      char **text,
                                      size_t *length);

/* ==== Token by token, without a generation ==== */

/**
 * Takes `count` tokens into the session, at least one; its logits are then those after the last.
 *
 * When it is cancelled, the session holds those of the tokens that were taken until then: see `kinglet_session_position`. When a token is
 * out of range or the session too full, nothing has changed.
 */
kinglet_status kinglet_session_feed(struct kinglet_session *session,
                                    const uint32_t *tokens,
                                    size_t count);

/**
 * Takes a text of `length` bytes into the session: `kinglet_tokenizer_encode` with `flags` and `kinglet_session_feed`.
 */
kinglet_status kinglet_session_feed_text(struct kinglet_session *session,
                                         const char *text,
                                         size_t length,
                                         uint32_t flags);

/**
 * Writes the logits after the last token to `logits`, which has room for `count` numbers: `kinglet_model_vocabulary` are needed.
 * `KINGLET_INVALID_STATE` if there are none: nothing was fed, or the session went back to where they were not kept.
 */
kinglet_status kinglet_session_logits(const struct kinglet_session *session,
                                      float *logits,
                                      size_t count);

/**
 * The tokens that the session holds. They are the program's: `kinglet_free`, also when there are none.
 */
kinglet_status kinglet_session_tokens(const struct kinglet_session *session,
                                      uint32_t **tokens,
                                      size_t *count);

/**
 * One step of several sessions of one model, which costs little more than that of one: session `i` of `sessions` takes `counts[i]` tokens from
 * `tokens[i]`. All of `count` must be different and free, and each take at least one token.
 *
 * When it is cancelled (through any of the sessions) or refuses an argument, none has changed.
 */
kinglet_status kinglet_step(struct kinglet_session *const *sessions,
                            const uint32_t *const *tokens,
                            const size_t *counts,
                            size_t count);

/**
 * How many floats the vector has that the model embeds a token as.
 */
kinglet_status kinglet_model_embedding_width(const struct kinglet_model *model, size_t *width);

/**
 * Writes the vectors that `count` tokens are embedded as to `vectors`, one behind the other; it has room for `floats` numbers, of which
 * `count` times `kinglet_model_embedding_width` are needed. They are what `kinglet_session_feed_embeddings` takes.
 */
kinglet_status kinglet_model_embed(const struct kinglet_model *model,
                                   const uint32_t *tokens,
                                   size_t count,
                                   float *vectors,
                                   size_t floats);

/**
 * Takes vectors into the session as `kinglet_session_feed` does tokens, each in place of what a token is embedded as
 * (`kinglet_model_embed`): what another model makes of a picture, for one. `vectors` has `floats` numbers, a multiple of
 * `kinglet_model_embedding_width`, all finite. Of every model, on every backend.
 *
 * Their positions have numbers from 2^31 on among the session's tokens: the same for the same vector, in this process and as long as a session,
 * snapshot or prefix cache holds the vector. All else works as with tokens, except that a rewind which would have to compute them again is
 * `KINGLET_NOT_REACHABLE`. When it is cancelled or refused, nothing has changed.
 */
kinglet_status kinglet_session_feed_embeddings(struct kinglet_session *session,
                                               const float *vectors,
                                               size_t floats);

/* ==== Copies, going back, files ==== */

/**
 * A second session that goes on from here by itself. It is the program's: `kinglet_session_delete`.
 */
kinglet_status kinglet_session_fork(const struct kinglet_session *session, struct kinglet_session **fork);

/**
 * Back to the first `tokens` tokens. A recurrent layer can't forget: it gets there from the nearest state that was retained before, or from the
 * beginning, by computing the tokens from there again. `computed` (may be null) is how many those are.
 *
 * With `replay` 0 nothing is computed: what can't be reached so is `KINGLET_NOT_REACHABLE`, with the nearest positions in the message. A
 * session that holds fewer tokens gives the same. When it is cancelled, the session may hold fewer than `tokens`.
 */
kinglet_status kinglet_session_rewind(struct kinglet_session *session,
                                      size_t tokens,
                                      int32_t replay,
                                      size_t *computed);

/**
 * Retains the state here, so that `kinglet_session_rewind` can come back to this position. Of more than 16 the oldest makes room.
 */
kinglet_status kinglet_session_mark(struct kinglet_session *session);

/**
 * Keeps what the session is now. The snapshot is the program's: `kinglet_snapshot_delete`, and may outlive the session.
 */
kinglet_status kinglet_snapshot_create(const struct kinglet_session *session,
                                       struct kinglet_snapshot **snapshot);

/**
 * Deletes a snapshot. Null is fine.
 */
kinglet_status kinglet_snapshot_delete(struct kinglet_snapshot *snapshot);

/**
 * A new session that goes on from the snapshot. It is the program's: `kinglet_session_delete`.
 */
kinglet_status kinglet_snapshot_session(const struct kinglet_snapshot *snapshot,
                                        struct kinglet_session **session);

/**
 * Makes the session what it, or another one of the same model, was at the snapshot; also a poisoned one, which is sound again. Another model's snapshot is
 * `KINGLET_INVALID_STATE`.
 */
kinglet_status kinglet_session_restore(struct kinglet_session *session,
                                       const struct kinglet_snapshot *snapshot);

/**
 * Saves the session to the file `path`, which is written whole or not at all. The file fits the same model only, on any backend.
 */
kinglet_status kinglet_session_save(const struct kinglet_session *session,
                                    const char *path);

/**
 * Saves the session to memory, `length` bytes. They are the program's: `kinglet_free`.
 */
kinglet_status kinglet_session_save_bytes(const struct kinglet_session *session, void **data, size_t *length);

/**
 * A session from a file that `kinglet_session_save` wrote. What is damaged or another model's is refused: `KINGLET_BAD_SAVED_STATE`, with what
 * differs in the message. The session is the program's: `kinglet_session_delete`.
 */
kinglet_status kinglet_session_load(const struct kinglet_model *model,
                                    const char *path,
                                    struct kinglet_session **session);

/**
 * A session from `length` bytes that `kinglet_session_save_bytes` gave, or from those of a saved file: as `kinglet_session_load`.
 */
kinglet_status kinglet_session_load_bytes(const struct kinglet_model *model,
                                          const void *data,
                                          size_t length,
                                          struct kinglet_session **session);

/**
 * Bytes of memory that the session takes: `state` for where it is, `retained` for what it can go back to. Either place may be null.
 */
kinglet_status kinglet_session_memory(const struct kinglet_session *session,
                                      uint64_t *state,
                                      uint64_t *retained);

/* ==== How a model is opened ==== */

/**
 * Options with the defaults: the best backend, its own choice of threads, no limit of the context.
 *
 * They are the program's: `kinglet_model_options_delete`.
 */
kinglet_status kinglet_model_options_create(struct kinglet_model_options **options);

/**
 * Deletes options. Null is fine.
 */
kinglet_status kinglet_model_options_delete(struct kinglet_model_options *options);

/**
 * Called while a model is opened, on the thread that opens it, with the bytes done and the bytes in all. Returns 0 to go on; anything
 * else cancels, and opening returns `KINGLET_CANCELLED`. It must return: no exception, no `longjmp`.
 */
typedef int32_t (*kinglet_progress_callback)(void *user, uint64_t done, uint64_t total);

/**
 * Which backend computes: `"auto"`, which takes a discrete or integrated graphics adapter if there is one, `"cpu"`, or what `kinglet_devices_backend` gave.
 */
kinglet_status kinglet_model_options_set_backend(struct kinglet_model_options *options,
                                                 const char *backend);

/**
 * Which adapter a backend for graphics cards takes, as `kinglet_devices_adapter` gave it; -1, the default, is the best one.
 */
kinglet_status kinglet_model_options_set_adapter(struct kinglet_model_options *options,
                                                 int64_t adapter);

/**
 * A folder of the program's own where what makes the next start faster is kept: kernels that a driver has compiled, and what was
 * found out about it. Null, the default, keeps nothing.
 */
kinglet_status kinglet_model_options_set_cache_dir(struct kinglet_model_options *options,
                                                   const char *folder);

/**
 * Whether the kernels that a model needs are tested on small inputs before they are used on a graphics card (1, the default), so that
 * a driver's faults are worked around or told, or not (0).
 */
kinglet_status kinglet_model_options_set_self_test(struct kinglet_model_options *options,
                                                   int32_t test);

/**
 * Lets attention see the last `window` positions and the first `sinks` only, so that the memory of a session stays bounded; 0 and 0, the
 * default, for all.
 */
kinglet_status kinglet_model_options_set_attention_window(struct kinglet_model_options *options,
                                                          size_t window,
                                                          size_t sinks);

/**
 * How many bits each number of the keys and values takes that attention keeps: 32, the default, 8, or 4, which shows in the answers a little.
 * Their share of a session's memory falls to 28 or 16 %.
 */
kinglet_status kinglet_model_options_set_kv_bits(struct kinglet_model_options *options,
                                                 int32_t bits);

/**
 * How many bits each number of the states takes that recurrent layers keep between steps: 32, the default, or 16. A graphics card must
 * have 16-bit floats for that.
 */
kinglet_status kinglet_model_options_set_state_bits(struct kinglet_model_options *options,
                                                    int32_t bits);

/**
 * How many threads compute on the CPU, from 1 to 512; 0, the default, is one for each physical core.
 */
kinglet_status kinglet_model_options_set_threads(struct kinglet_model_options *options, size_t threads);

/**
 * The most tokens that are computed together, from 1 to 65536, which bounds the working memory; 0, the default, is 512.
 */
kinglet_status kinglet_model_options_set_chunk(struct kinglet_model_options *options,
                                               size_t tokens);

/**
 * The most tokens that a session may hold; 0, the default, is no limit.
 */
kinglet_status kinglet_model_options_set_context_limit(struct kinglet_model_options *options, size_t tokens);

/**
 * Whether tensors that the model has no use for are an error (1) or only a warning in the log (0, the default). Tensors that are missing
 * are an error in any case.
 */
kinglet_status kinglet_model_options_set_strict(struct kinglet_model_options *options,
                                                int32_t strict);

/**
 * The opposite of `kinglet_model_options_set_strict`, which is newer: whether tensors that the model has no use for are only a warning in
 * the log (1, the default) or an error (0).
 */
kinglet_status kinglet_model_options_set_allow_surplus(struct kinglet_model_options *options,
                                                       int32_t allow);

/**
 * How many bytes of earlier states a session may keep so that a conversation whose beginning it has computed before goes on from
 * there; 256 MiB by default, 0 for none.
 */
kinglet_status kinglet_model_options_set_cache_bytes(struct kinglet_model_options *options,
                                                     size_t bytes);

/**
 * Whether opening reads all weights into memory (1), so that the first answer doesn't wait for them, or leaves them to be read when
 * they are needed (0, the default), so that opening takes milliseconds.
 */
kinglet_status kinglet_model_options_set_fetch(struct kinglet_model_options *options,
                                               int32_t fetch);

/**
 * Has `progress` called with `user` while a model is opened: at the beginning, at the end, and with
 * `kinglet_model_options_set_fetch` every 16 MiB. Null, the default, for no calls. `user` may be anything; Kinglet only hands it back.
 */
kinglet_status kinglet_model_options_set_progress(struct kinglet_model_options *options,
                                                  kinglet_progress_callback progress,
                                                  void *user);

/* ==== Devices and memory ==== */

/**
 * Lists what models can run on: the processor, which is always there and first, and the adapters that Kinglet's kernels can run on, graphics
 * cards and what plays one. To look for them takes some milliseconds.
 *
 * The list is the program's: `kinglet_devices_delete`. Any thread may use it.
 */
kinglet_status kinglet_devices_create(struct kinglet_devices **devices);

/**
 * Deletes a list of devices. Null is fine.
 */
kinglet_status kinglet_devices_delete(struct kinglet_devices *devices);

/**
 * How many devices the list has.
 */
kinglet_status kinglet_devices_count(const struct kinglet_devices *devices, size_t *count);

/**
 * The name of a device for people. The text is the program's: `kinglet_free`.
 */
kinglet_status kinglet_devices_name(const struct kinglet_devices *devices, size_t index, char **name);

/**
 * The backend of a device, for `kinglet_model_options_set_backend`. The text is the program's: `kinglet_free`.
 */
kinglet_status kinglet_devices_backend(const struct kinglet_devices *devices,
                                       size_t index,
                                       char **backend);

/**
 * The number of a device among the adapters of its backend, for `kinglet_model_options_set_adapter`; -1 for the processor.
 */
kinglet_status kinglet_devices_adapter(const struct kinglet_devices *devices,
                                       size_t index,
                                       int64_t *adapter);

/**
 * Tells, in bytes and within milliseconds, what the model in the folder `path` will take with one session of `context` tokens: its
 * weights (mapped, so that the system can take them back, on the CPU), the session's state, and working memory. `options` and each of the three places may
 * be null. A context of more than 64 Mi tokens is `KINGLET_TOO_LARGE`. Any thread may call it.
 */
kinglet_status kinglet_estimate(const char *path,
                                const struct kinglet_model_options *options,
                                size_t context,
                                uint64_t *weights,
                                uint64_t *state,
                                uint64_t *working);

/* ==== Models that are not in a folder ==== */

/**
 * A list without files. It is the program's: `kinglet_files_delete`.
 */
kinglet_status kinglet_files_create(struct kinglet_files **files);

/**
 * Deletes a list of files. Null is fine. A model that was opened from it keeps what it needs.
 */
kinglet_status kinglet_files_delete(struct kinglet_files *files);

/**
 * Adds `length` bytes of the open file `fd` from `offset` on; neither needs to be aligned to anything. This is what Android's
 * `AAsset_openFileDescriptor64` gives for an asset that is stored uncompressed.
 *
 * The descriptor is duplicated: the program's own stays open, stays the program's, and its position is not moved. The file must stay as it is
 * while the model lives. Unix only: elsewhere `KINGLET_UNSUPPORTED`.
 */
kinglet_status kinglet_files_add_fd(struct kinglet_files *files,
                                    const char *name,
                                    int32_t fd,
                                    uint64_t offset,
                                    uint64_t length);

/**
 * Adds a file whose `length` bytes are in memory. They are copied: for small files, and where there is no other way.
 */
kinglet_status kinglet_files_add_bytes(struct kinglet_files *files,
                                       const char *name,
                                       const void *data,
                                       size_t length);

/**
 * Opens a model whose files are not in a folder. The list is empty afterwards, whether this went well or not, and can be deleted.
 * `options` may be null. The model is the program's, as with `kinglet_model_open`.
 */
kinglet_status kinglet_model_open_files(struct kinglet_files *files,
                                        const struct kinglet_model_options *options,
                                        struct kinglet_model **model);

/**
 * The same for a model whose files are not in a folder. The list stays as it is, so that `kinglet_model_open_files` can take it.
 */
kinglet_status kinglet_estimate_files(const struct kinglet_files *files,
                                      const struct kinglet_model_options *options,
                                      size_t context,
                                      uint64_t *weights,
                                      uint64_t *state,
                                      uint64_t *working);

/* ==== The log ==== */

/**
 * How important a message of the log is.
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
   * Something is wrong.
   */
  KINGLET_LOG_ERROR = 1,
  /**
   * Something may be wrong.
   */
  KINGLET_LOG_WARN = 2,
  /**
   * What is being done.
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
 * Called with a message and its `enum kinglet_log_level`, on any thread and on several at once. The text, in UTF-8, ends when
 * the call returns. It must return: no exception, no `longjmp`; it must not call `kinglet_log_set`.
 */
typedef void (*kinglet_log_callback)(void *user, uint32_t level, const char *message);

/**
 * Has messages up to `level` (an `enum kinglet_log_level`) given to `callback` with `user`, for the whole process; null for none,
 * which is how it begins. Kinglet itself writes nothing to standard output or standard error.
 *
 * When this returns, no earlier callback is running or will be called. Any thread may call it, but not the callback itself: `KINGLET_BUSY`.
 */
kinglet_status kinglet_log_set(kinglet_log_callback callback,
                               void *user,
                               uint32_t level);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KINGLET_H */
