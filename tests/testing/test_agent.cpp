#include "testing/test_agent.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <thread>

namespace underseer::testing {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

namespace {

void become(const std::vector<std::string>& words) {
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execv(arguments[0], arguments.data());
}

}  // namespace

std::string program_path(const std::string& name) {
    return std::string(UNDERSEER_PROGRAMS) + "/" + name;
}

RunResult run_program(const std::vector<std::string>& words, unsigned user) {
    const Fd output(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    CHECK(static_cast<bool>(output));
    auto child = jail::Child::fork([&] {
        ::dup2(output.get(), STDOUT_FILENO);
        ::dup2(output.get(), STDERR_FILENO);
        if (user != 0 && (::setgid(user) != 0 || ::setuid(user) != 0)) return 126;
        become(words);
        return 127;
    });
    const auto ending = child.value().wait(120s).value();
    std::string text(static_cast<std::size_t>(::lseek(output.get(), 0, SEEK_END)), '\0');
    CHECK(read_at(output.get(), std::as_writable_bytes(std::span(text)), 0).has_value());
    return {ending.exited ? ending.status : -ending.status, text};
}

TestAgent::TestAgent(const std::string& policy) {
    std::string pattern = (fs::temp_directory_path() / "underseer-agent-XXXXXX").string();
    CHECK(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    ::chmod(pattern.c_str(), 0755);
    write_policy(policy);
    notify_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = directory_ + "/notify";
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    CHECK(::bind(notify_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
}

TestAgent::~TestAgent() {
    if (agent_) (void)kill(SIGTERM);
    std::error_code error;
    fs::remove_all(directory_, error);
}

void TestAgent::write_policy(const std::string& text) {
    std::ofstream(directory_ + "/policy.toml", std::ios::trunc) << text;
    ::chmod((directory_ + "/policy.toml").c_str(), 0644);
}

void TestAgent::launch() {
    agent_.emplace(jail::Child::fork([&] {
                       ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
                       ::setenv("NOTIFY_SOCKET", (directory_ + "/notify").c_str(), 1);
                       ::setenv("WATCHDOG_USEC", "1000000", 1);
                       const Fd log(::open((directory_ + "/errors").c_str(),
                                           O_CREAT | O_APPEND | O_WRONLY, 0600));
                       ::dup2(log.get(), STDERR_FILENO);
                       std::vector<std::string> words{program_path("underseerd"),  "--policy",
                                                      directory_ + "/policy.toml", "--state",
                                                      directory_ + "/state",       "--run",
                                                      directory_ + "/run"};
                       if (!instances_.empty()) {
                           words.insert(words.end(), {"--instances", instances_});
                       }
                       become(words);
                       return 127;
                   }).value());
}

void TestAgent::start() {
    launch();
    wait_until("the agent answers", [&] { return cli({"status"}).status == 0; });
}

int TestAgent::start_and_wait_for_end() {
    launch();
    const auto ending = agent_->wait(60s);
    CHECK(ending.has_value());
    agent_.reset();
    return ending->exited ? ending->status : -ending->status;
}

void TestAgent::signal(int number) {
    CHECK(::kill(agent_->pid(), number) == 0);
}

int TestAgent::kill(int number) {
    signal(number);
    const auto ending = agent_->wait(60s);
    CHECK(ending.has_value());
    agent_.reset();
    take_notifications();
    return ending->exited ? ending->status : -ending->status;
}

RunResult TestAgent::cli(std::vector<std::string> words, unsigned user) {
    // These are read from the files, not asked for.
    const bool log = words.at(0) == "log" || words.at(0) == "evidence";
    words.insert(words.begin(), program_path("underseer"));
    words.insert(words.end(), {log ? "--state" : "--run", directory_ + (log ? "/state" : "/run")});
    return run_program(words, user);
}

json::Value TestAgent::status() {
    const RunResult ran = cli({"status", "--json"});
    CHECK(ran.status == 0);
    return json::Value::parse(ran.output).value();
}

std::vector<json::Value> TestAgent::findings(std::string_view rule) {
    auto open = json::Value::parse(cli({"findings", "--json"}).output).value().elements().value();
    if (rule.empty()) return open;
    std::erase_if(open, [&](const json::Value& one) {
        return one.at("finding").value().at("rule").value().as_string().value() != rule;
    });
    return open;
}

namespace {

std::vector<json::Value> events_of(const std::string& text) {
    std::vector<json::Value> events;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = text.find('\n', at);
        auto event = json::Value::parse(std::string_view(text).substr(at, end - at));
        if (event.has_value()) events.push_back(std::move(*event));
        at = end + 1;
    }
    return events;
}

}  // namespace

std::vector<json::Value> TestAgent::logged() {
    return events_of(cli({"log", "show", "--json"}).output);
}

std::vector<json::Value> TestAgent::logged_in_bulk() {
    return events_of(cli({"log", "show", "--bulk", "--json"}).output);
}

std::vector<json::Value> TestAgent::logged(const std::string& text) {
    auto events = logged();
    std::erase_if(events, [&](const json::Value& event) {
        return event.at("message").value().as_string().value().find(text) == std::string::npos;
    });
    return events;
}

std::optional<json::Value> TestAgent::instance(const std::string& name) {
    const auto items = status().at("instances").value().elements().value();
    for (const json::Value& item : items) {
        const auto instance = item.at("instance").value();
        if (instance.at("name").value().as_string().value() == name) return item;
    }
    return std::nullopt;
}

bool TestAgent::was_notified(std::string_view start) const {
    return std::ranges::any_of(notified,
                               [&](const std::string& note) { return note.starts_with(start); });
}

void TestAgent::take_notifications() {
    char text[512];
    for (ssize_t got = 0; (got = ::recv(notify_.get(), text, sizeof text, 0)) > 0;) {
        notified.emplace_back(text, static_cast<std::size_t>(got));
    }
}

void TestAgent::wait_until(const std::string& what, const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (!condition()) {
        take_notifications();
        if (std::chrono::steady_clock::now() > deadline) {
            fmt::print(stderr, "waited in vain until {}\n{}\n{}\n", what, errors(),
                       cli({"status"}).output);
            CHECK(false);
        }
        std::this_thread::sleep_for(100ms);
    }
    take_notifications();
}

void TestAgent::wait_until_watched(const std::string& vm) {
    wait_until(vm + " is watched", [&] {
        const auto item = instance(vm);
        return item && item->at("state").value().as_string().value() == "watched" &&
               item->at("last_outcome").value().as_string().value() == "clean";
    });
}

json::Value TestAgent::wait_for_finding(const std::string& rule) {
    std::optional<json::Value> found;
    wait_until("a finding of " + rule, [&] {
        if (const auto open = findings(rule); !open.empty()) found = open.back();
        return found.has_value();
    });
    return *found;
}

std::vector<pid_t> TestAgent::workers(const std::string& role) {
    std::vector<pid_t> found;
    const std::string title = "underseer: " + role;
    for (const auto& entry : fs::directory_iterator("/proc")) {
        pid_t pid = 0;
        const std::string name = entry.path().filename();
        if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc{}) {
            continue;
        }
        const auto words = read_file(entry.path() / "cmdline", 4096).value_or("");
        const auto stat = read_file(entry.path() / "stat", 4096).value_or("");
        const std::string after = stat.substr(std::min(stat.rfind(')'), stat.size()));
        int parent = 0;
        if (std::sscanf(after.c_str(), ") %*c %d", &parent) != 1 || parent != agent_->pid()) {
            continue;
        }
        if (words.starts_with(title)) found.push_back(pid);
    }
    return found;
}

std::string TestAgent::errors() {
    return read_file(directory_ + "/errors", 1u << 20).value_or("");
}

}  // namespace underseer::testing
