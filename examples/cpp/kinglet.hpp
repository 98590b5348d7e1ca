// Kinglet for C++17: RAII handles, exceptions, std::string. A single header that wraps kinglet.h.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kinglet.h"

namespace kinglet {

// A call that failed: its status and its message (what()).
class error : public std::runtime_error {
public:
    explicit error(kinglet_status status) : std::runtime_error(kinglet_last_error()), status_(status) {}
    kinglet_status status() const noexcept { return status_; }

private:
    kinglet_status status_;
};

inline kinglet_status check(kinglet_status status) {
    if (status < 0) throw error(status);
    return status;
}

namespace detail {

template <class T, kinglet_status (*Delete)(T *)>
struct deleter {
    void operator()(T *handle) const noexcept { Delete(handle); }
};

template <class T, kinglet_status (*Delete)(T *)>
using handle = std::unique_ptr<T, deleter<T, Delete>>;

// Copies text that Kinglet returned, and frees it.
inline std::string take(char *text, std::size_t length) {
    struct guard {
        char *text;
        ~guard() { kinglet_free(text); }
    } held{text};
    return std::string(text, length);
}

inline std::vector<std::uint32_t> take(std::uint32_t *tokens, std::size_t count) {
    struct guard {
        std::uint32_t *tokens;
        ~guard() { kinglet_free(tokens); }
    } held{tokens};
    return std::vector<std::uint32_t>(tokens, tokens + count);
}

}  // namespace detail

// Settings for generating an answer.
class generation_options {
public:
    generation_options() {
        kinglet_generation_options *made = nullptr;
        check(kinglet_generation_options_create(&made));
        handle_.reset(made);
    }
    generation_options &set(kinglet_sampling option, double value) {
        check(kinglet_generation_options_set(handle_.get(), option, value));
        return *this;
    }
    generation_options &max_tokens(std::size_t tokens) {
        check(kinglet_generation_options_set_max_tokens(handle_.get(), tokens));
        return *this;
    }
    generation_options &seed(std::uint64_t seed) {
        check(kinglet_generation_options_set_seed(handle_.get(), seed));
        return *this;
    }
    generation_options &stop(const std::string &text) {
        check(kinglet_generation_options_add_stop(handle_.get(), text.c_str()));
        return *this;
    }
    const kinglet_generation_options *get() const noexcept { return handle_.get(); }

private:
    detail::handle<kinglet_generation_options, kinglet_generation_options_delete> handle_;
};

struct token {
    std::uint32_t id;
    std::string text;
};

// An answer, generated token by token or all at once.
class generation {
public:
    explicit generation(kinglet_generation *handle) : handle_(handle) {}

    // The next token; nullopt after the last.
    std::optional<token> next() {
        std::uint32_t id = 0;
        const char *text = nullptr;
        std::size_t length = 0;
        if (check(kinglet_generation_next(handle_.get(), &id, &text, &length)) == KINGLET_DONE) return std::nullopt;
        return token{id, std::string(text, length)};
    }

    // Generates the rest of the answer. `each` returns whether to continue; what it throws is rethrown here.
    void run(const std::function<bool(std::uint32_t, std::string_view)> &each) {
        struct state {
            const std::function<bool(std::uint32_t, std::string_view)> &each;
            std::exception_ptr thrown;
        } state{each, nullptr};
        auto call = [](void *user, std::uint32_t id, const char *text, std::size_t length) -> std::int32_t {
            auto &self = *static_cast<struct state *>(user);
            // An exception must not pass through Kinglet.
            try {
                return self.each(id, std::string_view(text, length)) ? 0 : 1;
            } catch (...) {
                self.thrown = std::current_exception();
                return 1;
            }
        };
        auto status = kinglet_generation_run(handle_.get(), call, &state);
        if (state.thrown) std::rethrow_exception(state.thrown);
        check(status);
    }

    std::string text() const {
        char *text = nullptr;
        std::size_t length = 0;
        check(kinglet_generation_text(handle_.get(), &text, &length));
        return detail::take(text, length);
    }
    double stat(kinglet_stat which) const {
        double value = 0;
        check(kinglet_generation_stat(handle_.get(), which, &value));
        return value;
    }
    kinglet_finish finish() const {
        std::int32_t reason = 0;
        check(kinglet_generation_finish(handle_.get(), &reason));
        return static_cast<kinglet_finish>(reason);
    }

private:
    detail::handle<kinglet_generation, kinglet_generation_delete> handle_;
};

// A sequence of tokens and its state.
class session {
public:
    explicit session(kinglet_session *handle) : handle_(handle) {}

    // Starts an answer to a conversation, given as JSON.
    generation chat(const std::string &messages, const generation_options &options = {}) {
        kinglet_generation *made = nullptr;
        check(kinglet_generation_create_chat(handle_.get(), messages.c_str(), options.get(), &made));
        return generation(made);
    }
    // Starts a continuation of a text.
    generation continue_text(std::string_view text, const generation_options &options = {}) {
        kinglet_generation *made = nullptr;
        check(kinglet_generation_create_text(handle_.get(), text.data(), text.size(), KINGLET_ENCODE_ADD_SPECIAL,
                                             options.get(), &made));
        return generation(made);
    }
    void feed(const std::vector<std::uint32_t> &tokens) {
        check(kinglet_session_feed(handle_.get(), tokens.data(), tokens.size()));
    }
    // Concatenated vectors, in place of token embeddings.
    void feed_embeddings(const std::vector<float> &vectors) {
        check(kinglet_session_feed_embeddings(handle_.get(), vectors.data(), vectors.size()));
    }
    session fork() const {
        kinglet_session *made = nullptr;
        check(kinglet_session_fork(handle_.get(), &made));
        return session(made);
    }
    // May be called from any thread.
    void cancel() { check(kinglet_session_cancel(handle_.get())); }
    std::size_t position() const {
        std::size_t tokens = 0;
        check(kinglet_session_position(handle_.get(), &tokens));
        return tokens;
    }
    std::vector<std::uint32_t> tokens() const {
        std::uint32_t *tokens = nullptr;
        std::size_t count = 0;
        check(kinglet_session_tokens(handle_.get(), &tokens, &count));
        return detail::take(tokens, count);
    }
    kinglet_session *get() const noexcept { return handle_.get(); }

private:
    detail::handle<kinglet_session, kinglet_session_delete> handle_;
};

// An open model.
class model {
public:
    explicit model(const std::string &folder, const kinglet_model_options *options = nullptr) {
        check(kinglet_check_abi(KINGLET_ABI_VERSION));
        kinglet_model *made = nullptr;
        check(kinglet_model_open(folder.c_str(), options, &made));
        handle_.reset(made);
    }
    kinglet::session session() const {
        kinglet_session *made = nullptr;
        check(kinglet_session_create(handle_.get(), &made));
        return kinglet::session(made);
    }
    std::string description() const {
        char *text = nullptr;
        check(kinglet_model_description(handle_.get(), &text));
        return detail::take(text, std::char_traits<char>::length(text));
    }
    kinglet_model *get() const noexcept { return handle_.get(); }

private:
    detail::handle<kinglet_model, kinglet_model_delete> handle_;
};

}  // namespace kinglet
