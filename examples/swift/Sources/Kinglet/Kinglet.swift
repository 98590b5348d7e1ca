// Kinglet for Swift: classes that delete their handles; failures are thrown as errors.
import CKinglet
import Foundation

/// A call that failed: libkinglet's message and its `kinglet_status`.
public struct KingletError: Error, CustomStringConvertible {
    public let status: Int32
    public let description: String

    /// Whether the call was ended by `Session.cancel`.
    public var isCancelled: Bool { status == -6 }
}

@discardableResult
func check(_ status: Int32) throws -> Int32 {
    if status < 0 {
        throw KingletError(status: status, description: String(cString: kinglet_last_error()))
    }
    return status
}

/// A message of a conversation.
public struct Message: Codable, Sendable {
    public var role: String
    public var content: String

    public init(role: String, content: String) {
        self.role = role
        self.content = content
    }
}

/// An open model. Thread-safe.
public final class Model: @unchecked Sendable {
    let handle: OpaquePointer

    /// Opens the model in a folder. This takes milliseconds, because weights are memory-mapped.
    public init(path: String) throws {
        try check(kinglet_check_abi(UInt32(KINGLET_ABI_VERSION)))
        var made: OpaquePointer?
        try check(kinglet_model_open(path, nil, &made))
        handle = made!
    }

    deinit { kinglet_model_delete(handle) }

    /// Describes the model and what it runs on.
    public func description() throws -> String {
        var text: UnsafeMutablePointer<CChar>?
        try check(kinglet_model_description(handle, &text))
        defer { kinglet_free(text) }
        return String(cString: text!)
    }
}

/// The state of a conversation. Use it from one thread at a time; only `cancel` may be called from any thread.
public final class Session: @unchecked Sendable {
    let handle: OpaquePointer
    /// Held while a stream is generated.
    private let streams = NSLock()

    public init(_ model: Model) throws {
        var made: OpaquePointer?
        try check(kinglet_session_create(model.handle, &made))
        handle = made!
    }

    deinit { kinglet_session_delete(handle) }

    /// Starts an answer to all messages so far. Reuses what was computed for earlier ones.
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

    /// Like `chat`, but generates on a separate thread. If the task stops reading or is cancelled, the answer ends within one step; an error
    /// ends the stream with that error. Streams of a session run one after another, but they don't wait for an answer of `chat`.
    public func stream(_ messages: [Message], maxTokens: Int = 0) -> AsyncThrowingStream<String, Error> {
        AsyncThrowingStream { continuation in
            let reader = Reader()
            continuation.onTermination = { reason in
                if case .cancelled = reason { reader.left(self) }
            }
            // Not a task, because generating blocks, and there are few threads for tasks.
            let thread = Thread {
                // No other stream may begin until a cancellation has been cleared: it would be cancelled instead.
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

    /// Ends the running call, within one step, with an error whose `isCancelled` is true.
    public func cancel() throws { try check(kinglet_session_cancel(handle)) }
}

/// Tracks whether a stream is being generated and whether its reader has left. A cancellation that isn't cleared would end the session's next
/// answer. So a reader that leaves cancels only while its answer is being generated, and a cancellation that comes too late is cleared.
private final class Reader: @unchecked Sendable {
    private let lock = NSLock()
    private var isComputing = false
    private var hasLeft = false

    /// Returns whether the reader is still there.
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

/// An answer that is being generated, piece by piece.
public final class Answer {
    let handle: OpaquePointer

    init(_ handle: OpaquePointer) { self.handle = handle }

    deinit { kinglet_generation_delete(handle) }

    /// The next piece of text: empty while a character is incomplete, nil after the last.
    public func next() throws -> String? {
        var text: UnsafePointer<CChar>?
        let status = try check(kinglet_generation_next(handle, nil, &text, nil))
        return status == 0 ? String(cString: text!) : nil
    }
}
