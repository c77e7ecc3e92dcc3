// The report against a guest that writes whatever it likes.
#include "report_page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/bytes.h"
#include "listings.h"

namespace underseer::cli {
namespace {

// Every hostile text that we could think of, in every place that a guest can write.
const std::vector<std::string>& hostile_texts() {
    static const std::vector<std::string> texts{
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "'><svg/onload=alert(1)>",
        "</details></ul></body></html>",
        "&lt;script&gt;&#x3c;b&#x3e;",
        "\x1b]0;owned\x07\x1b[2J",
        "gpj.\xe2\x80\xae exe",                 // RIGHT-TO-LEFT OVERRIDE
        "a\xe2\x80\x8b\xef\xbb\xbf\xd8\x9c z",  // ZERO WIDTH SPACE, BOM, ARABIC LETTER MARK
        "\xff\xfe\xc0\xaf\xed\xa0\x80",         // no UTF-8: overlong, surrogate
        std::string("nul\0nul", 7),
        "]]><!--",
        std::string(64u << 10, 'A'),
        "<b>" + std::string(64u << 10, '<'),
    };
    return texts;
}

ReportContent hostile() {
    ReportContent content;
    content.subject = hostile_texts()[1];
    content.tool = "underseer";
    event::SystemInfo info;
    info.banner = hostile_texts()[0];
    info.kernel_release = hostile_texts()[1];
    info.host_name = hostile_texts()[6];
    info.build_id = event::Observed<std::string>::unavailable(hostile_texts()[0]);
    info.notes = hostile_texts();
    content.system.answer.items = {info};
    event::CheckReport report;
    report.outcome = event::Outcome::finding;
    report.check = report.reason = hostile_texts()[0];
    report.coverage.gaps = report.coverage.limits = hostile_texts();
    std::uint32_t pid = 1;
    for (const std::string& text : hostile_texts()) {
        event::Task task;
        task.pid = task.tgid = pid;
        task.ppid = pid - 1;
        task.comm = text;
        task.argv = std::vector{text, text};
        task.exe = pid % 2 == 0 ? event::Observed<std::string>(text)
                                : event::Observed<std::string>::unavailable(text);
        task.container_id = text;
        content.tasks.answer.items.push_back(task);
        content.modules.answer.items.push_back({.name = text, .used_by = {text}, .state = text});
        content.sockets.answer.items.push_back({.family = pid % 2 == 0 ? "unix" : "inet",
                                                .type = text,
                                                .state = text,
                                                .local_address = text,
                                                .remote_address = text,
                                                .owner_pids = {pid}});
        content.mounts.answer.items.push_back(
            {.source = text, .target = text, .fs_type = text, .options = text});
        content.interfaces.answer.items.push_back(
            {.name = text, .mac = text, .addresses = std::vector{text, text}});
        content.kernel_log.answer.items.push_back({.text = text});
        report.findings.push_back({.rule = text,
                                   .title = text,
                                   .technique = text,
                                   .subject_kind = text,
                                   .subject = text,
                                   .evidence = {{text, text, 1, text}},
                                   .advice = text});
        content.input.emplace_back(text, text);
        ++pid;
    }
    content.checks.answer.items = {report};
    return content;
}

// Every tag of the page, as it stands.
std::vector<std::string> tags_of(const std::string& page) {
    std::vector<std::string> tags;
    for (std::size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at + 1)) {
        const std::size_t end = page.find('>', at);
        tags.push_back(page.substr(at + 1, end - at - 1));
    }
    return tags;
}

TEST(ReportPage, holds_no_markup_of_the_guest) {
    const std::string page = report_page(hostile());
    const std::set<std::string> known{
        "!DOCTYPE", "html",    "head",    "meta",  "title", "style", "body", "header",
        "div",      "h1",      "h2",      "h3",    "p",     "b",     "span", "nav",
        "a",        "main",    "section", "small", "dl",    "dt",    "dd",   "br",
        "table",    "thead",   "tbody",   "tr",    "th",    "td",    "code", "ul",
        "li",       "details", "summary", "pre",   "footer"};
    for (const std::string& tag : tags_of(page)) {
        std::string name = tag.substr(tag.starts_with('/') ? 1 : 0);
        name = name.substr(0, name.find(' '));
        EXPECT_TRUE(known.contains(name)) << tag.substr(0, 200);
        for (const char* word : {"onerror", "onload", "script", "src="}) {
            EXPECT_EQ(tag.find(word), std::string::npos) << tag.substr(0, 200);
        }
    }
}

TEST(ReportPage, holds_no_character_that_is_not_seen) {
    const std::string page = report_page(hostile());
    for (const char c : page) {
        ASSERT_TRUE(static_cast<unsigned char>(c) >= 0x20 || c == '\n');
        ASSERT_NE(c, '\x7f');
    }
    for (const char* hidden : {"\xe2\x80\xae", "\xe2\x80\x8b", "\xef\xbb\xbf", "\xd8\x9c", "\xff",
                               "\xc0\xaf", "\xed\xa0"}) {
        EXPECT_EQ(page.find(hidden), std::string::npos);
    }
    EXPECT_NE(page.find("gpj.\\xe2\\x80\\xae exe"), std::string::npos)
        << "it is shown, as what it is";
}

TEST(ReportPage, is_bounded_whatever_the_guest_claims) {
    ReportContent content = hostile();
    content.tasks.answer.items.clear();
    for (std::uint32_t pid = 1; pid <= 50'000; ++pid) {  // one long chain, and a cycle at its end
        event::Task task;
        task.pid = task.tgid = pid;
        task.ppid = pid == 1 ? 50'000 : pid - 1;
        task.comm = "x";
        content.tasks.answer.items.push_back(task);
    }
    const std::string tree = tree_of(content.tasks.answer.items, {});
    EXPECT_EQ(std::ranges::count(tree, '\n'), 50'000) << "each once";
    EXPECT_LT(tree.size(), 50'000u * 300) << "a chain does not run out of the window for ever";
    const std::string page = report_page(content);
    EXPECT_NE(page.find("Left out: 30000 processes"), std::string::npos);
    std::size_t depth = 0, deepest = 0;
    std::size_t opened = 0, closed = 0;
    for (const std::string& tag : tags_of(page)) {
        if (tag.starts_with("details")) deepest = std::max(deepest, ++depth), ++opened;
        if (tag == "/details") --depth, ++closed;
    }
    EXPECT_EQ(opened, closed);
    EXPECT_LE(deepest, 70u);
    EXPECT_LT(page.size(), 16u << 20);
}

TEST(ReportPage, says_what_was_not_judged_and_not_seen) {
    ReportContent content;
    content.subject = "vm";
    content.checks.unavailable = "no such list";
    content.sockets.unavailable = "no type information";
    const std::string page = report_page(content);
    EXPECT_NE(page.find("Not judged"), std::string::npos);
    EXPECT_EQ(page.find("No finding"), std::string::npos);
    content.checks.unavailable.clear();
    content.checks.answer.items = {
        {.check = "hidden_process", .outcome = event::Outcome::clean},
        {.check = "decoy_kernel", .outcome = event::Outcome::unavailable, .reason = "no <socket>"}};
    const std::string half = report_page(content);
    EXPECT_NE(half.find("No finding, but not all was judged"), std::string::npos);
    EXPECT_NE(half.find("decoy_kernel: no &lt;socket&gt;"), std::string::npos);
    EXPECT_NE(half.find("Check hidden_process: clean"), std::string::npos);
    EXPECT_NE(page.find("unavailable: no type information"), std::string::npos);
}

TEST(ReportPage, marks_what_is_hidden_in_the_tree) {
    ReportContent content;
    event::Task parent;
    parent.pid = parent.tgid = 2;
    parent.kernel_thread = true;
    event::Task hidden = parent, plain = parent;
    hidden.pid = hidden.tgid = 7, hidden.ppid = 2, hidden.address = 0xffff0010;
    plain.pid = plain.tgid = 8, plain.ppid = 2, plain.address = 0xffff0020;
    content.tasks.answer.items = {parent, hidden, plain};
    event::CheckReport report{.check = "hidden_process", .outcome = event::Outcome::finding};
    report.findings = {
        {.rule = "hidden_process",
         .key = "7:1234:ffff0010",
         .evidence = {{"missing in", "task_list", 0, ""}}},
        // The same place, but another process by now.
        {.rule = "hidden_process", .subject = "gone (pid 9)", .key = "9:1:ffff0020"}};
    content.checks.answer.items = {report};
    const std::string page = report_page(content);
    EXPECT_NE(page.find("<span class=\"pid\">7</span> <span class=\"hidden\">hidden: missing in "
                        "task_list</span>"),
              std::string::npos);
    EXPECT_EQ(page.find("<span class=\"pid\">8</span> <span class=\"hidden\">"), std::string::npos);
    EXPECT_NE(
        page.find("not in this tree (a thread, or in none of the kernel's lists): gone (pid 9)"),
        std::string::npos);
    EXPECT_NE(page.find("<details open><summary><span class=\"pid\">2<"), std::string::npos)
        << "kernel threads are not folded over it";

    const std::string text =
        tree_of(content.tasks.answer.items,
                hidden_among(content.tasks.answer.items, content.checks.answer.items));
    EXPECT_NE(text.find(" 7! []"), std::string::npos) << text;
    EXPECT_NE(text.find(" 8 []"), std::string::npos) << text;
}

}  // namespace
}  // namespace underseer::cli
