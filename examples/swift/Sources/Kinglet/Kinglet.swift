// Kinglet for Swift: objects that delete their handles, and errors that are thrown.
import CKinglet
import Foundation

/// A call that failed: libkinglet's message and its `kinglet_status`.
public struct KingletError: Error, CustomStringConvertible {
    public let status: Int32
    public let description: String

    /// What `Session.cancel` makes of the answer that it cancels.
    public var isCancelled: Bool { status == -6 }
}

@discardableResult
func check(_ status: Int32) throws -> Int32 {
    if status < 0 {
        throw KingletError(status: status, description: String(cString: kinglet_last_error()))
    }
    return status
}

/// One message of a conversation.
public struct Message: Codable, Sendable {
    public var role: String
    public var content: String

    public init(role: String, content: String) {
        self.role = role
        self.content = content
    }
}

/// An open model. Any number of threads may use it.
public final class Model: @unchecked Sendable {
    let handle: OpaquePointer

    /// Opens the model in a folder; its weights are mapped, so that this takes milliseconds.
    public init(path: String) throws {
        try check(kinglet_check_abi(UInt32(KINGLET_ABI_VERSION)))
        var made: OpaquePointer?
        try check(kinglet_model_open(path, nil, &made))
        handle = made!
    }

    deinit { kinglet_model_delete(handle) }

    /// What it is and what it runs on.
    public func description() throws -> String {
        var text: UnsafeMutablePointer<CChar>?
        try check(kinglet_model_description(handle, &text))
        defer { kinglet_free(text) }
        return String(cString: text!)
    }
}

/// A conversation's state. One thread at a time; `cancel` from any.
public final class Session: @unchecked Sendable {
    let handle: OpaquePointer
    /// Held while a stream is computed.
    private let streams = NSLock()

    public init(_ model: Model) throws {
        var made: OpaquePointer?
        try check(kinglet_session_create(model.handle, &made))
        handle = made!
    }

    deinit { kinglet_session_delete(handle) }

    /// The answer to all messages so far. What was computed before is used again.
    public func chat(_ messages: [Message], maxTokens: Int = 0) throws -> Answer {
        let json = String(decoding: try JSONEncoder().encode(messages), as: UTF8.self)
        var options: OpaquePointer?
        try check(kinglet_generation_options_create(&options))
        defer { kinglet_generation_options_delete(options) }
        try check(kinglet_generation_options_set_max_tokens(options, maxTokens))
        var made: OpaquePointer?
        try check(kinglet_generation_create_chat(handle, json, options, &made))
        return Answer(made!)
    }

    /// The answer as `chat` gives it, computed on a thread of its own. A task that stops reading, or is cancelled, ends it within one step;
    /// an error ends the stream with that error. Streams of a session are computed one after the other; an answer of `chat` is not waited for.
    public func stream(_ messages: [Message], maxTokens: Int = 0) -> AsyncThrowingStream<String, Error> {
        AsyncThrowingStream { continuation in
            let reader = Reader()
            continuation.onTermination = { reason in
                if case .cancelled = reason { reader.left(self) }
            }
            // Not a task: to compute is to block, and there are few threads for tasks.
            let thread = Thread {
                // Until a cancellation is taken away nothing else may begin: it would be cancelled instead.
                self.streams.lock()
                defer { self.streams.unlock() }
                guard reader.begins() else { return continuation.finish() }
                do {
                    let answer = try self.chat(messages, maxTokens: maxTokens)
                    while let piece = try answer.next() {
                        if case .terminated = continuation.yield(piece) { break }
                    }
                    reader.computed(self)
                    continuation.finish()
                } catch {
                    reader.computed(self)
                    continuation.finish(throwing: error)
                }
            }
            thread.start()
        }
    }

    /// Ends what the session computes with an error that `isCancelled`, within one step.
    public func cancel() throws { try check(kinglet_session_cancel(handle)) }
}

/// Whether a stream is still read and now computed. A cancellation that nothing takes away would meet the session's next answer, so a reader
/// that leaves cancels only what is being computed, and what came too late for it is taken away.
private final class Reader: @unchecked Sendable {
    private let lock = NSLock()
    private var isComputing = false
    private var hasLeft = false

    /// Whether anybody is there to compute for.
    func begins() -> Bool {
        lock.lock()
        defer { lock.unlock() }
        isComputing = !hasLeft
        return isComputing
    }

    func left(_ session: Session) {
        lock.lock()
        defer { lock.unlock() }
        hasLeft = true
        if isComputing { kinglet_session_cancel(session.handle) }
    }

    func computed(_ session: Session) {
        lock.lock()
        defer { lock.unlock() }
        isComputing = false
        if hasLeft { kinglet_session_clear_cancel(session.handle) }
    }
}

/// An answer as it is generated, a piece of text at a time.
public final class Answer {
    let handle: OpaquePointer

    init(_ handle: OpaquePointer) { self.handle = handle }

    deinit { kinglet_generation_delete(handle) }

    /// The next piece of text, empty while a character is incomplete; nil after the last.
    public func next() throws -> String? {
        var text: UnsafePointer<CChar>?
        let status = try check(kinglet_generation_next(handle, nil, &text, nil))
        return status == 0 ? String(cString: text!) : nil
    }
}
