// Asks a model for two stories with the same beginning: c++ -std=c++17 story.cpp -lkinglet -o story && ./story path/to/model
#include <iostream>

#include "kinglet.hpp"

int main(int argc, char **argv) try {
    if (argc < 2) {
        std::cerr << "usage: " << argv[0] << " MODEL_FOLDER\n";
        return 2;
    }
    kinglet::model model(argv[1]);
    std::cout << model.description() << "\n";
    kinglet::generation_options options;
    options.set(KINGLET_TEMPERATURE, 0.7).max_tokens(40);

    auto session = model.session();
    auto opening = session.chat(R"([{"role": "user", "content": "Tell me a story about a fox."}])", options.seed(1));
    while (auto token = opening.next()) std::cout << token->text << std::flush;
    std::cout << "\n[" << opening.stat(KINGLET_STAT_DECODE_RATE) << " tokens/s]\n";

    // Two continuations, each in its own session.
    for (int seed = 1; seed <= 2; seed++) {
        auto branch = session.fork();
        auto rest = branch.continue_text("", options.seed(seed));
        std::cout << "--- " << seed << ":";
        rest.run([](std::uint32_t, std::string_view text) {
            std::cout << text << std::flush;
            return true;
        });
        std::cout << "\n";
    }
} catch (const kinglet::error &error) {
    std::cerr << "error " << error.status() << ": " << error.what() << "\n";
    return 1;
}
