import Foundation
import Kinglet
import XCTest

/// Tests with the model in the folder `KINGLET_MODEL` (an environment variable), or with the demo model.
final class KingletTests: XCTestCase {
    let question = [Message(role: "user", content: "Tell me a story about a dog.")]

    func session() throws -> Session {
        let demo = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../../models/demo/hybrid")
        let named = ProcessInfo.processInfo.environment["KINGLET_MODEL"]
        return try Session(try Model(path: named ?? demo.standardized.path))
    }

    func shortAnswer(_ session: Session) async throws -> String {
        var text = ""
        for try await piece in session.stream(question, maxTokens: 4) { text += piece }
        return text
    }

    func testAnAnswerComesInPieces() async throws {
        let session = try session()
        var pieces = 0
        var text = ""
        for try await piece in session.stream(question, maxTokens: 24) {
            pieces += 1
            text += piece
        }
        XCTAssertGreaterThan(pieces, 3)
        XCTAssertFalse(text.isEmpty)
    }

    func testAnAnswerIsNoLongerThanAsked() throws {
        let answer = try session().chat(question, maxTokens: 5)
        var pieces = 0
        while try answer.next() != nil { pieces += 1 }
        XCTAssertGreaterThan(pieces, 0)
        XCTAssertLessThanOrEqual(pieces, 6)
        XCTAssertNil(try answer.next())
    }

    func testAReaderThatLeavesLeavesTheSessionUsable() async throws {
        let session = try session()
        let expected = try await shortAnswer(session)
        XCTAssertFalse(expected.isEmpty)
        for round in 0..<20 {
            var pieces = 0
            for try await _ in session.stream(question, maxTokens: 200) {
                pieces += 1
                if pieces > round % 4 { break }
            }
            let text = try await shortAnswer(session)
            XCTAssertFalse(text.isEmpty)
        }
    }

    func testATaskThatIsCancelledLeavesTheSessionUsable() async throws {
        let session = try session()
        let question = question
        for milliseconds in 0..<10 {
            let task = Task {
                for try await _ in session.stream(question, maxTokens: 200) {}
            }
            try await Task.sleep(nanoseconds: UInt64(milliseconds) * 2_000_000)
            task.cancel()
            _ = try? await task.value
            let text = try await shortAnswer(session)
            XCTAssertFalse(text.isEmpty)
        }
    }

    func testStreamsOfASessionRunOneAfterAnother() async throws {
        let session = try session()
        let question = question
        let answers = try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    var text = ""
                    for try await piece in session.stream(question, maxTokens: 12) { text += piece }
                    return text
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        XCTAssertEqual(answers.count, 8)
        XCTAssertTrue(answers.allSatisfy { !$0.isEmpty })
    }

    func testACancelledAnswerEndsWithACancellationError() throws {
        let session = try session()
        let answer = try session.chat(question, maxTokens: 100)
        _ = try answer.next()
        try session.cancel()
        XCTAssertThrowsError(try { while try answer.next() != nil {} }()) { error in
            XCTAssertTrue((error as? KingletError)?.isCancelled == true, "\(error)")
        }
    }

    func testAMissingModelIsAnErrorThatNamesIt() {
        XCTAssertThrowsError(try Model(path: "/nowhere")) { error in
            XCTAssertTrue("\(error)".contains("/nowhere does not exist"), "\(error)")
        }
    }
}
