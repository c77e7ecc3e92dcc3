#include "report_page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "base/counted.h"
#include "checks.h"
#include "crypto/hash.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "listings.h"
#include "output.h"
#include "table.h"

namespace underseer::cli {

namespace {

// What one page holds, so that a guest cannot make one that no browser opens. What is left out is
// told, with the command that shows it.
constexpr std::size_t kMaxRows = 20'000;  // of each table
constexpr std::size_t kMaxText = 4096;    // bytes of one text; an argument list may be 2 MiB
constexpr std::size_t kLongText = 160;    // beyond this it is folded
constexpr std::size_t kMaxDepth = 64;     // of the tree; parsers stop nesting at 512
constexpr std::size_t kMaxLogLines = 500;
constexpr std::size_t kMaxBytes = 256;  // of one piece of evidence
constexpr std::size_t kBytesOfLine = 16;

constexpr std::string_view kStyle = R"css(
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--dim:#5b6675;--line:#dfe3e9;
--head:#eef1f5;--accent:#1f5fae;--good:#1a7f4b;--goodbg:#e6f4ec;--bad:#b3261e;--badbg:#fdecea;
--warn:#8a5a00;--warnbg:#fff4dc}
@media (prefers-color-scheme:dark){:root{--bg:#10141a;--card:#181e27;--ink:#e3e8ef;--dim:#98a4b5;
--line:#2b3442;--head:#202834;--accent:#7fb2f0;--good:#6ecb98;--goodbg:#14301f;--bad:#ff8a80;
--badbg:#3a1917;--warn:#f0c066;--warnbg:#352810}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:14px/1.5 system-ui,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1180px;margin:0 auto;padding:0 24px}
header{padding-top:32px}
.over{font-size:12px;letter-spacing:.08em;text-transform:uppercase;color:var(--dim)}
h1{margin:2px 0 4px;font-size:27px;line-height:1.25;overflow-wrap:anywhere}
h2{margin:0 0 12px;font-size:18px}
h2 small{font-weight:400;font-size:13px;color:var(--dim);margin-left:8px}
h3{margin:0 0 4px;font-size:15px}
p{margin:0 0 10px}
.dim{color:var(--dim)}
nav{margin:16px 0 24px;display:flex;flex-wrap:wrap;gap:4px 18px;border-bottom:1px solid var(--line);
padding-bottom:12px}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:18px 20px;
margin:0 0 18px}
.verdict{border-left:5px solid;padding:12px 16px;border-radius:6px;margin:18px 0;font-size:15px}
.verdict b{font-size:17px}
.good{border-color:var(--good);background:var(--goodbg)}.good b{color:var(--good)}
.bad{border-color:var(--bad);background:var(--badbg)}.bad b{color:var(--bad)}
.warn{border-color:var(--warn);background:var(--warnbg)}.warn b{color:var(--warn)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:0 0 18px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tile b{display:block;font-size:21px;line-height:1.3}
.tile span{color:var(--dim);font-size:12px}
dl{display:grid;grid-template-columns:minmax(130px,max-content) 1fr;gap:5px 20px;margin:0}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px}
th{text-align:left;background:var(--head);font-weight:600;white-space:nowrap}
th,td{padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;overflow-wrap:normal}
td.w,td.w code{white-space:nowrap;overflow-wrap:normal}
tr:last-child td{border-bottom:0}
code,.log,.tree{font:12.5px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
code{overflow-wrap:anywhere}
.bytes{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;margin:4px 0 0;
overflow-x:auto}
.hidden{display:inline-block;border-radius:4px;padding:0 7px;font-weight:600;color:var(--bad);
background:var(--badbg)}
.log{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;max-height:440px;overflow-y:auto}
.tree,.tree ul{list-style:none;margin:0;padding-left:20px}
.tree{padding-left:0}
.tree li{overflow-wrap:anywhere}
.tree ul{border-left:1px solid var(--line);margin-left:6px;padding-left:14px}
.leaf{padding-left:16px}
.pid{display:inline-block;min-width:3.2em;color:var(--dim)}
.user{color:var(--dim)}
.kernel{color:var(--dim)}
summary{cursor:pointer}
.tree .long,.tree .long summary{display:inline}
.tag{display:inline-block;border-radius:4px;padding:0 7px;font-size:12px;font-weight:600;
background:var(--head);margin-right:6px}
.finding{border:1px solid var(--bad);border-radius:8px;padding:14px 16px;margin:0 0 12px}
.finding h3{color:var(--bad)}
.finding.informational{border-color:var(--line)}
.finding.informational h3{color:inherit}
.finding table{margin:10px 0}
.na{color:var(--warn)}
footer{color:var(--dim);font-size:12px;padding-bottom:40px}
@media print{body{background:#fff;color:#000;font-size:11px}section,.tile{border-color:#ccc;
background:#fff}nav{display:none}section{padding:8px 0;border:0;border-top:1px solid #ccc;
border-radius:0}tr,.tile{break-inside:avoid}thead{display:table-header-group}
main,header,footer{max-width:none;padding:0}h2,h3{break-after:avoid}.scroll{overflow:visible}
.log{max-height:none;overflow:visible}
code,.log,.tree,.bytes{font-size:10px}.long>summary,.tree .long>summary{display:none}
details::details-content{content-visibility:visible}
@page{margin:14mm}}
)css";

// Base64 (RFC 4648) of a digest, as a content security policy names a style.
std::string base64(Bytes bytes) {
    constexpr std::string_view kLetters =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t group = 0;
        for (std::size_t j = 0; j < 3; ++j) {
            const bool there = i + j < bytes.size();
            group = group << 8 | (there ? std::to_integer<std::uint32_t>(bytes[i + j]) : 0);
        }
        for (std::size_t j = 0; j < 4; ++j) {
            const bool there = i + j < bytes.size() + 1;
            text += there ? kLetters[group >> (18 - 6 * j) & 63] : '=';
        }
    }
    return text;
}

// A text of the guest in a place where people read: cut, and folded when it is long.
std::string folded(std::string_view text) {
    if (text.size() <= kLongText) return html(text);
    const auto whole = [&](std::size_t size) {  // no character is cut in two
        while (size > 0 && size < text.size() &&
               (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) {
            --size;
        }
        return text.substr(0, size);
    };
    std::string more = html(whole(kMaxText));
    if (text.size() > kMaxText) {
        more += fmt::format(" <span class=\"dim\">… {} bytes in all; --json has them</span>",
                            text.size());
    }
    return fmt::format("<details class=\"long\"><summary>{}…</summary>{}</details>",
                       html(whole(kLongText)), more);
}

std::string optional_text(const event::Observed<std::string>& value) {
    if (value.available()) return folded(value.value());
    return fmt::format("<span class=\"na\">unavailable: {}</span>", html(value.reason()));
}

std::string optional_time(const event::Observed<std::uint64_t>& value) {
    if (value.available()) return time_text(value.value()) + " UTC";
    return fmt::format("<span class=\"na\">unavailable: {}</span>", html(value.reason()));
}

enum class Cells : std::uint8_t {
    text,
    word,  // never broken: words of ours and addresses, not what a guest wrote
    number,
};

struct HtmlColumn {
    std::string_view title;
    Cells cells = Cells::text;

    std::string_view html_class() const {
        return cells == Cells::number ? " class=\"n\"" : cells == Cells::word ? " class=\"w\"" : "";
    }
};

// Cells are HTML already.
class HtmlTable {
  public:
    explicit HtmlTable(std::vector<HtmlColumn> columns) : columns_(std::move(columns)) {}

    void add(const std::vector<std::string>& cells) {
        if (++rows_ > kMaxRows) return;
        body_ += "<tr>";
        for (std::size_t i = 0; i < cells.size(); ++i) {
            body_ += fmt::format("<td{}>{}</td>", columns_[i].html_class(), cells[i]);
        }
        body_ += "</tr>\n";
    }
    std::string text() const {
        if (rows_ == 0) return "<p class=\"dim\">None.</p>\n";
        std::string out = "<div class=\"scroll\"><table><thead><tr>";
        for (const HtmlColumn& column : columns_) {
            out += fmt::format("<th{}>{}</th>", column.html_class(), column.title);
        }
        out += "</tr></thead><tbody>\n" + body_ + "</tbody></table></div>\n";
        if (rows_ > kMaxRows) {
            out += fmt::format("<p class=\"na\">Left out: {}; the command shows all.</p>\n",
                               counted(rows_ - kMaxRows, "row"));
        }
        return out;
    }

  private:
    std::vector<HtmlColumn> columns_;
    std::string body_;
    std::size_t rows_ = 0;
};

std::string section(std::string_view id, std::string_view title, std::string_view note,
                    const std::string& body) {
    return fmt::format("<section id=\"{}\"><h2>{}{}</h2>\n{}</section>\n", id, title,
                       note.empty() ? "" : fmt::format("<small>{}</small>", html(note)), body);
}

template <typename T, typename Body>
std::string seen_section(std::string_view id, std::string_view title, const Seen<T>& seen,
                         Body&& body) {
    if (!seen.unavailable.empty()) {
        return section(id, title, "",
                       fmt::format("<p class=\"na\">Unavailable: {}</p>", html(seen.unavailable)));
    }
    return section(id, title, std::to_string(seen.answer.items.size()), body(seen.answer.items));
}

// ---- sections ---------------------------------------------------------------------------------

std::string verdict(const ReportContent& content) {
    const FindingCounts findings = count_findings(content.checks.answer.items);
    if (findings.alarming > 0) {
        return fmt::format(
            "<div class=\"verdict bad\"><b>{}</b><br>What was seen, and "
            "what it rests on, stands below.</div>\n",
            text_of(findings));
    }
    std::string why = content.checks.unavailable;
    std::size_t clean = 0;
    for (const event::CheckReport& report : content.checks.answer.items) {
        if (report.outcome == event::Outcome::clean) ++clean;
        if (report.outcome == event::Outcome::unavailable && why.empty()) {
            why = report.check + ": " + report.reason;
        }
    }
    if (!why.empty() || clean == 0) {
        return fmt::format(
            "<div class=\"verdict warn\"><b>{}</b><br>A check could not look: {}</div>\n",
            clean == 0 ? "Not judged" : "No finding, but not all was judged",
            html(why.empty() ? "there is no answer from it" : why));
    }
    return fmt::format(
        "<div class=\"verdict good\"><b>No finding</b><br>The checks below found nothing{} in what "
        "they could look at. That is no proof of more than they cover.</div>\n",
        findings.informational > 0 ? " more than informational" : "");
}

std::string tile(std::string_view value, std::string_view name) {
    return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>", html(value), name);
}

template <typename T>
std::string count_tile(const Seen<T>& seen, std::string_view name) {
    return tile(seen.unavailable.empty() ? std::to_string(seen.answer.items.size()) : "?", name);
}

// As hexdump -C shows them.
std::string bytes_text(const event::Evidence& item) {
    const std::string_view bytes = std::string_view(item.bytes).substr(0, kMaxBytes);
    std::string text = "<pre class=\"bytes\">";
    for (std::size_t at = 0; at < bytes.size(); at += kBytesOfLine) {
        const std::string_view line = bytes.substr(at, kBytesOfLine);
        std::string hex, letters;
        for (const char c : line) {
            hex += fmt::format("{:02x} ", static_cast<unsigned char>(c));
            letters += c >= 0x20 && c < 0x7f ? c : '.';
        }
        text += fmt::format("{:016x}  {:<{}} |{}|\n", item.address + at, hex, 3 * kBytesOfLine,
                            html(letters));
    }
    return text + "</pre>" + (bytes.size() < item.bytes.size() ? "…" : "");
}

std::string findings_section(const ReportContent& content) {
    std::string body;
    for (const event::CheckReport& report : content.checks.answer.items) {
        for (const event::Finding& finding : report.findings) {
            body += fmt::format(
                "<div class=\"finding{}\"><h3>{}</h3><p><span class=\"tag\">{}</span><span "
                "class=\"tag\">confidence {} %</span><span class=\"tag\">ATT&amp;CK {}</span>"
                "</p><p><b>{}: {}</b></p>",
                event::is_informational(finding) ? " informational" : "", html(finding.title),
                html(to_string(finding.severity)), finding.confidence, html(finding.technique),
                html(finding.subject_kind), folded(finding.subject));
            HtmlTable table({{"Evidence", Cells::word}, {"What it says"}});
            for (const event::Evidence& item : finding.evidence) {
                std::string says = folded(item.text);
                if (item.address != 0) says += fmt::format(" at <code>{:#x}</code>", item.address);
                if (!item.bytes.empty()) says += bytes_text(item);
                table.add({html(item.name), says});
            }
            body += table.text() + fmt::format("<p>{}</p></div>\n", html(finding.advice));
        }
    }
    if (body.empty()) body = "<p class=\"dim\">None.</p>\n";
    for (const event::CheckReport& report : content.checks.answer.items) {
        if (report.outcome == event::Outcome::finding) continue;
        body += fmt::format("<p>Check {}: {}{}</p>\n", html(report.check),
                            html(to_string(report.outcome)),
                            report.reason.empty() ? "" : ", " + html(report.reason));
    }
    const FindingCounts counts = count_findings(content.checks.answer.items);
    return section("findings", "Findings", std::to_string(counts.alarming + counts.informational),
                   body);
}

std::string facts(const std::vector<std::pair<std::string, std::string>>& rows) {
    std::string text = "<dl>";
    for (const auto& [name, value] : rows) {
        text += fmt::format("<dt>{}</dt><dd>{}</dd>\n", html(name), value);
    }
    return text + "</dl>\n";
}

std::string input_section(const ReportContent& content) {
    std::vector<std::pair<std::string, std::string>> input;
    for (const auto& [name, value] : content.input) {
        input.emplace_back(name,
                           name == "SHA-256" ? "<code>" + html(value) + "</code>" : html(value));
    }
    input.emplace_back("Read", fmt::format("from {} to {} UTC", time_text(content.begun_ns),
                                           time_text(content.made_ns)));
    input.emplace_back("Read with", html(content.tool));
    return section("input", "Input", "what this report rests on", facts(input));
}

std::string system_section(const ReportContent& content) {
    if (content.system.answer.items.empty()) {
        return section(
            "system", "System", "",
            fmt::format("<p class=\"na\">Unavailable: {}</p>", html(content.system.unavailable)));
    }
    const event::SystemInfo& info = content.system.answer.items.front();
    std::string notes;
    for (const std::string& note : info.notes) notes += html(note) + "<br>";
    const auto code = [](const std::string& text) { return "<code>" + text + "</code>"; };
    return section(
        "system", "System", "",
        facts({{"Kernel", html(info.kernel_release)},
               {"Banner", html(std::string_view(info.banner).substr(0, kMaxText))},
               {"Build id", code(optional_text(info.build_id))},
               {"Host name", optional_text(info.host_name)},
               {"Booted", optional_time(info.boot_time)},
               {"Its clock said", optional_time(info.wall_clock)},
               {"CPUs", info.cpus.available() ? std::to_string(info.cpus.value()) : "unavailable"},
               {"Kernel image", code(fmt::format("{:#x}", info.physical_base)) +
                                    " (physical), moved by KASLR " +
                                    code(fmt::format("{:#x}", info.kaslr_slide_bytes))},
               {"Page tables",
                fmt::format("{} levels at <code>{:#x}</code>{}", info.page_table_levels,
                            info.page_table_root, isolation_of(info))},
               {"Kernel model", fmt::format("{} symbols, {} types, from the memory itself",
                                            info.symbol_count, info.type_count)},
               {"How it was found", notes.empty() ? "by the kernel's own descriptions" : notes}}));
}

std::string task_line(const event::Task& task, const HiddenTasks& hidden) {
    std::string line = fmt::format("<span class=\"pid\">{}</span> ", task.pid);
    if (const auto found = hidden.missing_in.find(task.address); found != hidden.missing_in.end()) {
        line += fmt::format("<span class=\"hidden\">hidden: missing in {}</span> ",
                            html(found->second));
    }
    const auto words = task.argv.value_or({});
    std::string command;
    for (const std::string& word : words) {
        if (command.size() > kMaxText) break;  // folded() tells that there is more
        command += (command.empty() ? "" : " ") + word;
    }
    if (task.kernel_thread) {
        return line + fmt::format("<span class=\"kernel\">[{}]</span>", html(task.comm));
    }
    line += command.empty() ? fmt::format("[{}]", html(task.comm)) : folded(command);
    std::string aside;
    if (task.credentials.available()) {
        aside += fmt::format("uid {}", task.credentials.value().uid);
    } else {
        aside += "uid unavailable";
    }
    if (task.exe.available()) {
        const bool plain = !words.empty() && words.front() == task.exe.value();
        if (!plain && !task.exe.value().empty()) aside += ", exe " + task.exe.value();
    } else {
        aside += ", exe unavailable";
    }
    if (task.start_time.available()) aside += ", since " + time_text(task.start_time.value());
    const std::string container = task.container_id.value_or("");
    if (!container.empty()) aside += ", container " + container.substr(0, 12);
    if (task.state == "Z") aside += ", zombie";
    return line + fmt::format(" <span class=\"user\">({})</span>", html(aside.substr(0, 400)));
}

// Parents and children. A guest may forge any of it: each task is shown once, whatever cycle it is
// in, and what is nested too deep stands on the last level.
std::string tree_section(const std::vector<event::Task>& tasks, const HiddenTasks& hidden) {
    std::map<std::uint32_t, std::vector<const event::Task*>> children;
    std::set<std::uint32_t> pids;
    for (const event::Task& task : tasks) pids.insert(task.pid);
    for (const event::Task& task : tasks) {
        const std::uint32_t parent = task.ppid.value_or(0);
        const bool rooted = !pids.contains(parent) || parent == task.pid;
        children[rooted ? 0 : parent].push_back(&task);
    }
    struct Step {
        const event::Task* task;  // nullptr: the end of a level
        std::size_t depth;
    };
    std::vector<Step> steps;
    std::set<const event::Task*> shown;
    const auto push = [&](std::uint32_t parent, std::size_t depth) {
        const auto list = std::move(children[parent]);
        children[parent].clear();
        for (std::size_t i = list.size(); i-- > 0;) steps.push_back({list[i], depth});
    };
    std::string text = "<ul class=\"tree\">\n";
    std::size_t rows = 0;
    const auto walk = [&] {
        while (!steps.empty()) {
            const Step step = steps.back();
            steps.pop_back();
            if (step.task == nullptr) {
                text += "</ul></details></li>\n";
                continue;
            }
            if (!shown.insert(step.task).second || ++rows > kMaxRows) continue;
            const auto below = children.find(step.task->pid);
            const bool parent = below != children.end() && !below->second.empty();
            if (!parent || step.depth >= kMaxDepth) {
                text += fmt::format("<li><div class=\"leaf\">{}</div></li>\n",
                                    task_line(*step.task, hidden));
                if (parent) push(step.task->pid, step.depth);
                continue;
            }
            // Kernel threads are many and alike: folded until somebody asks, unless one of them is
            // not like the others.
            const auto is_hidden = [&](const event::Task* task) { return hidden.contains(*task); };
            const bool open = step.task->pid != 2 || !step.task->kernel_thread ||
                              std::ranges::any_of(below->second, is_hidden);
            text += fmt::format("<li><details{}><summary>{}</summary><ul>\n", open ? " open" : "",
                                task_line(*step.task, hidden));
            steps.push_back({nullptr, 0});
            push(step.task->pid, step.depth + 1);
        }
    };
    push(0, 0);
    walk();
    // Whoever is in a cycle of parents hangs from no root.
    for (const event::Task& task : tasks) {
        if (shown.contains(&task)) continue;
        steps.push_back({&task, 0});
        walk();
    }
    text += "</ul>\n";
    for (const std::string& subject : hidden.unlisted) {
        text += fmt::format(
            "<p><span class=\"hidden\">hidden</span> and not in this tree (a thread, or in none of "
            "the kernel's lists): {}</p>\n",
            folded(subject));
    }
    if (rows > kMaxRows) {
        text += fmt::format("<p class=\"na\">Left out: {}; underseer ps shows all.</p>\n",
                            counted(rows - kMaxRows, "process", "processes"));
    }
    return text;
}

std::string modules_section(const std::vector<event::Module>& modules) {
    HtmlTable table({{"Module"},
                     {"Size", Cells::number},
                     {"Refs", Cells::number},
                     {"State", Cells::word},
                     {"Taints", Cells::word},
                     {"Text at", Cells::word},
                     {"Used by"}});
    for (const event::Module& module : modules) {
        table.add({folded(module.name), std::to_string(module.size_bytes),
                   std::to_string(module.reference_count), html(module.state), html(module.taints),
                   fmt::format("<code>{:#x}</code>", module.text_begin),
                   folded(fmt::format("{}", fmt::join(module.used_by, ", ")))});
    }
    return table.text();
}

std::string end_point(const event::Socket& socket, const std::string& address, std::uint32_t port) {
    if (!socket.family.starts_with("inet")) return folded(address);
    if (address.empty() && port == 0) return "";
    return html(address.find(':') == std::string::npos ? fmt::format("{}:{}", address, port)
                                                       : fmt::format("[{}]:{}", address, port));
}

std::string sockets_section(const ReportContent& content,
                            const std::vector<event::Socket>& sockets) {
    std::map<std::uint32_t, std::string> names;
    for (const event::Task& task : content.tasks.answer.items) names[task.pid] = task.comm;
    HtmlTable table({{"Family", Cells::word},
                     {"Type", Cells::word},
                     {"State", Cells::word},
                     {"Local"},
                     {"Remote"},
                     {"UID", Cells::number},
                     {"Held by"}});
    for (const event::Socket& socket : sockets) {
        std::string owners;
        for (const std::uint32_t pid : socket.owner_pids) {
            if (owners.size() > kMaxText) break;
            const auto name = names.find(pid);
            owners += fmt::format("{}{}{}", owners.empty() ? "" : ", ",
                                  name == names.end() ? "" : name->second + " ", pid);
        }
        table.add({html(socket.family), html(socket.type), html(socket.state),
                   end_point(socket, socket.local_address, socket.local_port),
                   end_point(socket, socket.remote_address, socket.remote_port),
                   std::to_string(socket.uid), folded(owners)});
    }
    return table.text();
}

std::string mounts_section(const std::vector<event::Mount>& mounts) {
    HtmlTable table({{"Namespace", Cells::number}, {"Target"}, {"Type"}, {"Source"}, {"Options"}});
    for (const event::Mount& mount : mounts) {
        table.add({std::to_string(mount.mnt_namespace), folded(mount.target), html(mount.fs_type),
                   folded(source_of(mount)), folded(mount.options)});
    }
    return table.text();
}

std::string interfaces_section(const std::vector<event::NetworkInterface>& interfaces) {
    HtmlTable table({{"Namespace", Cells::number},
                     {"Name"},
                     {"Flags", Cells::word},
                     {"MTU", Cells::number},
                     {"MAC", Cells::word},
                     {"Addresses"}});
    for (const event::NetworkInterface& item : interfaces) {
        table.add({std::to_string(item.net_namespace), html(item.name),
                   fmt::format("<code>{:#x}</code>{}", item.flags,
                               item.promiscuity > 0 ? " promiscuous" : ""),
                   std::to_string(item.mtu), html(item.mac),
                   item.addresses.available()
                       ? folded(fmt::format("{}", fmt::join(item.addresses.value(), ", ")))
                       : html("unavailable: " + item.addresses.reason())});
    }
    return table.text();
}

std::string log_section(const std::vector<event::KernelLogLine>& lines) {
    const std::size_t from = lines.size() - std::min(lines.size(), kMaxLogLines);
    std::string text;
    if (from > 0) {
        text += fmt::format(
            "<p class=\"dim\">The last {} of {} lines; underseer dmesg has them "
            "all.</p>\n",
            kMaxLogLines, lines.size());
    }
    text += "<pre class=\"log\">";
    for (std::size_t i = from; i < lines.size(); ++i) {
        const event::KernelLogLine& line = lines[i];
        text += fmt::format("[{:5}.{:06}] {}\n", line.time_since_boot_ns / 1'000'000'000,
                            line.time_since_boot_ns % 1'000'000'000 / 1000,
                            html(std::string_view(line.text).substr(0, kMaxText)));
    }
    return text + "</pre>\n";
}

// Fields that could not be had, counted, with the first reason of each.
template <typename T>
std::string missing_fields(const std::vector<T>& items) {
    std::string text;
    event::for_each_field<T>([&](const auto& field) {
        using Member = std::decay_t<decltype(std::declval<T>().*(field.member))>;
        if constexpr (requires(const Member& member) { member.reason(); }) {
            // Only what was asked for can be missing.
            if (field.name == "environment") return;
            std::size_t count = 0;
            std::string reason;
            for (const T& item : items) {
                const Member& member = item.*(field.member);
                if (member.available()) continue;
                if (count++ == 0) reason = member.reason();
            }
            if (count > 0) {
                text += fmt::format("{} unavailable for {}; the first: {}<br>", field.name, count,
                                    html(reason));
            }
        }
    });
    return text;
}

template <typename T>
void add_coverage(HtmlTable& table, std::string_view what, const Seen<T>& seen) {
    if (!seen.unavailable.empty()) {
        table.add(
            {std::string(what), "0", "",
             fmt::format("<span class=\"na\">unavailable: {}</span>", html(seen.unavailable))});
        return;
    }
    std::string gaps = missing_fields(seen.answer.items);
    if (seen.answer.unreadable > 0) gaps += "unreadable; the first: " + html(seen.answer.first_gap);
    table.add({std::string(what), std::to_string(seen.answer.items.size()),
               std::to_string(seen.answer.unreadable),
               gaps.empty() ? "nothing known" : "<span class=\"na\">" + gaps + "</span>"});
}

std::string coverage_section(const ReportContent& content) {
    HtmlTable table({{"Looked at", Cells::word},
                     {"Seen", Cells::number},
                     {"Unreadable", Cells::number},
                     {"What is missing"}});
    add_coverage(table, "System", content.system);
    add_coverage(table, "Processes", content.tasks);
    add_coverage(table, "Modules", content.modules);
    add_coverage(table, "Sockets", content.sockets);
    add_coverage(table, "Mounts", content.mounts);
    add_coverage(table, "Interfaces", content.interfaces);
    add_coverage(table, "Kernel log", content.kernel_log);
    if (!content.checks.unavailable.empty()) add_coverage(table, "Checks", content.checks);
    for (const event::CheckReport& report : content.checks.answer.items) {
        std::string gaps;
        if (!report.reason.empty()) gaps += html(report.reason) + "<br>";
        for (const auto* texts : {&report.coverage.gaps, &report.coverage.limits}) {
            for (const std::string& text : *texts) gaps += html(text) + "<br>";
        }
        const bool of_cpus = report.check == detect::DecoyKernelCheck::kName;
        table.add({fmt::format("Check {} ({}): {}", html(report.check), of_cpus ? "CPUs" : "tasks",
                               html(to_string(report.outcome))),
                   std::to_string(report.coverage.looked_at),
                   std::to_string(report.coverage.unreadable),
                   gaps.empty() ? "nothing known" : "<span class=\"na\">" + gaps + "</span>"});
    }
    return section("coverage", "Coverage", "what was looked at, and what was not",
                   table.text() +
                       "<p class=\"dim\">Not looked at for this report: open files, memory "
                       "mappings and environment variables of processes, contents of files.</p>\n");
}

}  // namespace

std::string html(std::string_view text) {
    std::string out;
    for (const char c : printable(text)) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            case '\'':
                out += "&#39;";
                break;
            default:
                out += c;
        }
    }
    return out;
}

std::string report_page(const ReportContent& content) {
    const auto digest = crypto::sha256(as_bytes(kStyle));
    std::string page = fmt::format(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
        "'sha256-{}'; base-uri 'none'; form-action 'none'\">\n"
        "<meta name=\"referrer\" content=\"no-referrer\">\n"
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
        "<title>Underseer report: {}</title>\n<style>{}</style></head>\n<body>",
        base64(digest), html(content.subject), kStyle);
    page += fmt::format(
        "<header><div class=\"over\">Underseer report</div><h1>{}</h1>"
        "<p class=\"dim\">Made {} UTC by {}, from outside the guest.</p>\n",
        html(content.subject), time_text(content.made_ns), html(content.tool));
    page += verdict(content);
    page += "<div class=\"tiles\">";
    if (!content.system.answer.items.empty()) {
        const event::SystemInfo& info = content.system.answer.items.front();
        page += tile(info.host_name.value_or("?").substr(0, 64), "host name");
    }
    page += count_tile(content.tasks, "processes") + count_tile(content.modules, "modules") +
            count_tile(content.sockets, "sockets") + count_tile(content.mounts, "mounts") +
            count_tile(content.interfaces, "interfaces") + "</div>\n";
    page += "<nav>";
    for (const auto& [id, name] :
         std::initializer_list<std::pair<const char*, const char*>>{{"findings", "Findings"},
                                                                    {"input", "Input"},
                                                                    {"system", "System"},
                                                                    {"processes", "Processes"},
                                                                    {"modules", "Modules"},
                                                                    {"sockets", "Sockets"},
                                                                    {"mounts", "Mounts"},
                                                                    {"interfaces", "Interfaces"},
                                                                    {"log", "Kernel log"},
                                                                    {"coverage", "Coverage"}}) {
        page += fmt::format("<a href=\"#{}\">{}</a>", id, name);
    }
    page += "</nav></header><main>\n" + findings_section(content) + input_section(content) +
            system_section(content);
    const HiddenTasks hidden =
        hidden_among(content.tasks.answer.items, content.checks.answer.items);
    page += seen_section("processes", "Processes", content.tasks,
                         [&](const auto& items) { return tree_section(items, hidden); });
    page += seen_section("modules", "Modules", content.modules, modules_section);
    page += seen_section("sockets", "Sockets", content.sockets,
                         [&](const auto& items) { return sockets_section(content, items); });
    page += seen_section("mounts", "Mounts", content.mounts, mounts_section);
    page += seen_section("interfaces", "Interfaces", content.interfaces, interfaces_section);
    page += seen_section("log", "Kernel log", content.kernel_log, log_section);
    page += coverage_section(content);
    page +=
        "</main><footer>Times are UTC; those inside the guest are by its own clock. Text that the "
        "guest wrote is shown as it is; characters that cannot be seen, or that turn the "
        "writing direction around, are shown as \\xNN. A kernel that is wholly under an "
        "attacker's control can lie about anything above.</footer></body></html>\n";
    return page;
}

}  // namespace underseer::cli
