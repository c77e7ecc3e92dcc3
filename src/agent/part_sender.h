// PartSender: gives a worker what is longer than a question may be in parts, with other questions
// between them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "agent/baseline_form.h"
#include "agent/introspection.h"
#include "agent/job_runner.h"

namespace underseer::agent {

class PartSender {
  public:
    using Ask = std::function<Question(BaselinePart part)>;
    // What came of the whole. Not called for one in whose place another came, or whose worker was
    // lost.
    using Done = std::function<void(const Result<void>& result)>;

    // Must outlive the workers that it sends to.
    PartSender(Ask ask, Done done) : ask_(std::move(ask)), done_(std::move(done)) {}
    PartSender(const PartSender&) = delete;

    // In the place of what is on its way.
    void send(JobRunner& worker, std::shared_ptr<const std::string> text);

  private:
    void send_from(JobRunner& worker, const std::shared_ptr<const std::string>& text,
                   std::size_t from);

    Ask ask_;
    Done done_;
    std::uint64_t sent_ = 0;  // how many texts, the last one being that which holds
};

}  // namespace underseer::agent
