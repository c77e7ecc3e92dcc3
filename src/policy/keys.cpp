#include "policy/keys.h"

#include <array>

namespace underseer::policy {

namespace {

constexpr std::array kKeys{
    Key{"[schedule]", "discover_every", "\"1s\"", "\"1s\"",
        "How often the host is searched for new VMs. At least \"100ms\"."},
    Key{"[schedule]", "hidden_process", "\"10s\"", "\"10s\"",
        "How often each VM is checked for hidden processes: at least \"1s\", or \"off\". Every "
        "other "
        "check has a key of its own name: underseer check --list."},
    Key{"[schedule]", "watch", "\"8ms\"", "\"8ms\"",
        "How often the memory that decides who answers in each VM's kernel is compared, and what "
        "its CPUs run is looked for in the kernel's lists: at least \"1ms\", or \"off\"."},
    Key{"[schedule]", "deep_search", "\"off\"", "\"off\"",
        "How often a check for hidden processes also searches all of a VM's RAM, for a task that "
        "no "
        "list leads to: at least \"1s\", or \"off\". On suspicion, and for as long as a hidden "
        "process is "
        "known, it does so anyway."},
    Key{"[schedule]", "cpu_percent", "1.0", "1.0",
        "Share of one core, in percent, that one VM may take: at most half of it for the watch, "
        "the rest for the checks. A check that costs more is run less often, and underseer status "
        "says so."},
    Key{"[schedule]", "host_cpu_percent", "100", "100",
        "The same for all VMs of the host together, of which each has an equal part."},
    Key{"[instances]", "only", "[\"name:web-*\"]", "all",
        "Only the instances that one of these patterns names are looked into. A pattern is "
        "\"name:\", \"uuid:\", \"tenant:\", \"app:\" (MEC appInstanceId), \"label:\" or "
        "\"image:\" (file of the first disk) and a text in which * "
        "and ? stand for any text and any character."},
    Key{"[instances]", "exclude", "[\"tenant:acme\"]", "none",
        "Instances that are never looked into. Wins over only."},
    Key{"[access]", "viewers", "[\"user:0\"]", "none beside root",
        "Who may ask for status and findings: \"user:NAME\" or \"group:NAME\"."},
    Key{"[access]", "examiners", "[\"group:0\"]", "none beside root",
        "Who may also have guest memory read: processes, files, sockets. Every such question is "
        "logged."},
    Key{"[access]", "responders", "[\"group:0\"]", "none beside root",
        "Who may also have something done to a VM (underseer act): paused, cut off, ended. Each "
        "such "
        "order is logged, and what came of it."},
    Key{"[access]", "redact_environment", "true", "true",
        "Whether values of environment variables are left out of answers."},
    Key{"[integrity]", "on_mismatch", "\"report\"", "\"report\"",
        "What is done when the programs or the policy differ from the signed manifest: \"report\" "
        "or \"refuse\" to start."},
    Key{"[log]", "segment_bytes", "67108864", "67108864",
        "Size at which a log segment is closed and the next begun. At least 65536."},
    Key{"[log]", "keep_bytes", "4294967296", "4294967296",
        "What is kept of each log; older segments are removed. At least 1048576."},
    Key{"[evidence]", "keep_bytes", "4294967296", "4294967296",
        "What the evidence of one VM may take. Nothing is removed by itself: beyond this no more "
        "is "
        "kept, and that is logged. At least 67108864."},
    Key{"[evidence]", "trace", "\"3s\"", "\"3s\"",
        "How long the process that a finding is about is traced for its evidence, or \"off\"."},
    Key{"[evidence]", "exact_stops", "2000", "0",
        "More than 0: where that can be, it is traced exactly first, every system call with its "
        "arguments, for the same time. Each call of any process then stops all CPUs of the VM for "
        "a moment, twice; more such stops within a second than this end it. 0: never."},
    Key{"[rules]", "sigma", "[\"/etc/underseer/rules\"]",
        "/usr/share/underseer/rules and /etc/underseer/rules",
        "Files of Sigma rules, and folders of them, by which the check event_rules judges what is "
        "started, connected and loaded. Of two files of one name the later one holds. What is not "
        "understood is refused, logged, and told by underseer status --json. Only root may be able "
        "to write to them."},
    Key{"[[inspect]]", "instance", "\"kernel:6.1.*\"", "every instance",
        "Instances that are looked at otherwise than [schedule] says: a pattern as in only, or "
        "\"kernel:\" and a release, which is the guest's own word. Of several sections the later "
        "one has the last word."},
    Key{"[[inspect]]", "hidden_process", "\"5s\"", "as in [schedule]",
        "How often that check is made there. Every other check has a key of its own name."},
    Key{"[[inspect]]", "watch", "\"2ms\"", "as in [schedule]",
        "How often their memory is watched."},
    Key{"[[inspect]]", "deep_search", "\"1h\"", "as in [schedule]",
        "How often all their RAM is searched."},
    Key{"[[inspect]]", "cpu_percent", "4.0", "as in [schedule]",
        "Share of one core, in percent, that each of them may take."},
    Key{"[[monitor]]", "instance", "\"tenant:acme\"", "every instance",
        "Where something is kept an eye on besides: a pattern as in [[inspect]]."},
    Key{"[[monitor]]", "memory", "[\"tcp_prot\", \"init_net+0x10:64\"]", "none",
        "Memory of the guest's kernel that nothing should write to: \"SYMBOL\" (to the next one), "
        "\"SYMBOL:BYTES\" or \"SYMBOL+OFFSET:BYTES\". A change is the finding "
        "monitored_memory_changed."},
    Key{"[[monitor]]", "events", "[\"process_start\"]", "none",
        "What is logged as it is seen, as often as event_rules looks: \"process_start\", "
        "\"connection\", \"module_load\"."},
    Key{"[[suppress]]", "rule", "\"hidden_process\"", "must be there",
        "The rule whose findings are expected; * and ? as above."},
    Key{"[[suppress]]", "instance", "\"name:lab-*\"", "every instance",
        "Where they are expected: a pattern as in only."},
    Key{"[[suppress]]", "subject", "\"sleep *\"", "\"*\"",
        "What they are about; * and ? as above."},
    Key{"[[suppress]]", "reason", "\"a test of ours\"", "must be there",
        "Why. It is logged with each such finding, which wakes nobody."},
    Key{"[[suppress]]", "until", "2099-12-31", "must be there",
        "The last day, a date without quotes. A suppression always ends."},
    Key{"[[act]]", "rule", "\"watched_memory_changed\"", "must be there",
        "About findings of which rule something is done to the VM, as soon as they are opened; * "
        "and ? as above. Nothing is done about what is suppressed."},
    Key{"[[act]]", "instance", "\"name:web-*\"", "every instance",
        "To which VMs: a pattern as in only."},
    Key{"[[act]]", "subject", "\"sleep *\"", "\"*\"", "What they are about; * and ? as above."},
    Key{"[[act]]", "run", "\"/usr/local/sbin/open-ticket\"", "none",
        "A program that is started then, with the event of the finding (a line of JSON, as in the "
        "log) "
        "on its standard input. It has a minute. Only root may be able to write to it."},
    Key{"[[act]]", "do", "[\"capture\", \"pause\"]", "must be there, or run",
        "What is done, in this order: \"capture\" (what there is to know of the VM and of what the "
        "finding is about is kept as signed evidence), \"dump\" (all of its memory is), \"pause\" "
        "(its CPUs stop, its memory stays), \"isolate\" (its network cards lose their link), "
        "\"kill\" (as pulling the plug). Undone by \"resume\" and \"reconnect\", here or by "
        "underseer act."},
};

}  // namespace

std::span<const Key> keys() {
    return kKeys;
}

}  // namespace underseer::policy
