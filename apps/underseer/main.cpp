#include <fmt/format.h>

#include "agent/worker.h"
#include "commands.h"
#include "table.h"

int main(int argc, char** argv) {
    using namespace underseer;
    if (const auto status = agent::run_if_worker(argc, argv)) return *status;
    auto options = cli::parse_options(cli::description(), {argv + 1, argv + argc});
    auto status = options.has_value() ? cli::run(*options)
                                      : Result<int>(Unexpected(std::move(options).error()));
    if (status.has_value()) return *status;
    fmt::print(stderr, "underseer: {}\n", cli::printable(status.error().to_text()));
    return cli::exit_status(status.error());
}
