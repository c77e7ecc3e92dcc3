// The report against a guest that writes whatever it likes.
#include "report_page.h"

#include <gtest/gtest.h>

#include <set>

#include "base/bytes.h"

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
    report.coverage.gaps = hostile_texts();
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
            {.name = text, .mac = text, .addresses = {text, text}});
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
    EXPECT_NE(page.find("unavailable: no type information"), std::string::npos);
}

}  // namespace
}  // namespace underseer::cli
