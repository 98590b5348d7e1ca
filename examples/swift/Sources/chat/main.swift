// A terminal chat: swift run chat MODEL_FOLDER
import Foundation
import Kinglet

guard CommandLine.arguments.count == 2 else {
    FileHandle.standardError.write(Data("usage: chat MODEL_FOLDER\n".utf8))
    exit(2)
}
/// Unlike `print`, shows the text at once, before the line ends.
func show(_ text: String) { FileHandle.standardOutput.write(Data(text.utf8)) }
do {
    let model = try Model(path: CommandLine.arguments[1])
    show(try model.description() + "\n")
    let session = try Session(model)
    var messages: [Message] = []
    while let question = readLine() {
        messages.append(Message(role: "user", content: question))
        var text = ""
        for try await piece in session.stream(messages) {
            show(piece)
            text += piece
        }
        show("\n")
        messages.append(Message(role: "assistant", content: text))
    }
} catch {
    FileHandle.standardError.write(Data("\(error)\n".utf8))
    exit(1)
}
