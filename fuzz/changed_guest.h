// A genuine guest, and changes to its RAM that a fuzzer describes: which word, how, and after how
// many reads (a guest that races).
//
// The guest is a FakeGuest, or the image that UNDERSEER_FUZZ_IMAGE names: a dump of a real one has
// sockets, files and mounts as well.
#pragma once

#include <fcntl.h>

#include <cstdlib>
#include <memory>
#include <unordered_set>
#include <vector>

#include "base/bytes.h"
#include "base/os.h"
#include "guest_linux/fake_guest.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"

namespace underseer {

using guest_memory::GuestMemory;

struct Change {
    GuestPhys word;
    std::uint64_t value = 0;
    std::uint32_t from_read = 0;
};

class ChangedMemory final : public GuestMemory {
  public:
    explicit ChangedMemory(GuestMemory* genuine) : genuine_(genuine) {}

    std::span<const guest_memory::RamRegion> regions() const override {
        return genuine_->regions();
    }
    void read_many(std::span<guest_memory::ReadOp> ops) override {
        genuine_->read_many(ops);
        for (guest_memory::ReadOp& op : ops) {
            ++reads;
            if (pages_read != nullptr) pages_read->push_back(op.from.value & kPageMask);
            for (const Change& change : changes) apply(change, op);
        }
    }
    bool live() const override { return genuine_->live(); }
    std::string describe() const override { return "fuzzed"; }

    std::vector<Change> changes;
    std::uint32_t reads = 0;
    std::vector<std::uint64_t>* pages_read = nullptr;  // in a rehearsal: the pages that matter

  private:
    void apply(const Change& change, guest_memory::ReadOp& op) const {
        if (op.status != guest_memory::ReadStatus::ok || reads < change.from_read ||
            change.word >= op.from + op.into.size() || op.from >= change.word + sizeof change.value)
            return;
        for (std::size_t i = 0; i < sizeof change.value; ++i) {
            const std::uint64_t at = change.word.value + i - op.from.value;
            if (at < op.into.size()) op.into[at] = std::byte(change.value >> 8 * i & 0xff);
        }
    }
    GuestMemory* genuine_;
};

struct Genuine {
    Fd file;
    std::unique_ptr<GuestMemory> memory;
    std::unique_ptr<ChangedMemory> changed;  // the same, with the changes of the input
    std::vector<std::uint64_t> pages;        // that a look reads, in the order of the first time

    // `look` is what will be done with the guest; it is rehearsed to know which pages matter.
    template <typename Look>
    explicit Genuine(Look&& look) {
        if (const char* path = std::getenv("UNDERSEER_FUZZ_IMAGE")) {
            file = open_file(path, O_RDONLY).value();
            const auto size = ::lseek(file.get(), 0, SEEK_END);
            memory = guest_memory::open_image(file.get(), static_cast<std::uint64_t>(size), path)
                         .value();
        } else {
            memory = fake();
        }
        changed = std::make_unique<ChangedMemory>(memory.get());
        std::vector<std::uint64_t> read;
        changed->pages_read = &read;
        look(*changed);
        changed->pages_read = nullptr;
        std::unordered_set<std::uint64_t> seen;
        for (const std::uint64_t page : read) {
            if (seen.insert(page).second) pages.push_back(page);
        }
    }

    static std::unique_ptr<GuestMemory> fake() {
        auto guest = std::make_unique<guest_linux::FakeGuest>(
            guest_linux::FakeGuest::Options{.ram_bytes = 32u << 20});
        const GuestVirt init = guest->add_task(1, 1, "init", guest->init_task());
        const GuestVirt shell = guest->add_task(7, 7, "sh", init);
        const GuestVirt worker = guest->add_task(8, 7, "sh-worker", shell);
        const GuestVirt hidden = guest->add_task(9, 9, "hidden", init);
        guest->set_vmcoreinfo(guest->true_vmcoreinfo());
        guest->finish();
        for (const GuestVirt task : {init, shell, worker, hidden}) guest->make_real(task);
        guest->unlink_from_task_list(hidden);
        return guest;
    }

    std::uint64_t word(GuestPhys at) const {
        std::uint64_t value = 0;
        (void)memory->read(at, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
};

// {which word (4 bytes), how (1), from which read on (2), the value (8)}
inline bool read_change(ByteCursor& cursor, const Genuine& genuine, std::vector<Change>& changes) {
    const auto which = cursor.read<std::uint32_t>();
    const auto how = cursor.read<std::uint8_t>();
    const auto when = cursor.read<std::uint16_t>();
    const auto what = cursor.read<std::uint64_t>();
    if (!which.has_value() || !how.has_value() || !when.has_value() || !what.has_value()) {
        return false;
    }
    const auto place = [&](std::uint64_t number) {
        constexpr std::uint64_t kWords = kPageSize / 8;
        const std::uint64_t page = genuine.pages[number / kWords % genuine.pages.size()];
        return GuestPhys{page + number % kWords * 8};
    };
    const GuestPhys word = place(*which);
    const std::uint64_t now = genuine.word(word);
    std::uint64_t value = *what;
    switch (*how % 4) {
        case 1:
            value = now ^ 1ull << *what % 64;
            break;
        case 2:
            value = now + *what % 0x2000 - 0x1000;
            break;
        case 3:
            value = genuine.word(place(*what));
            break;  // a pointer to something else
        default:
            break;
    }
    changes.push_back({word, value, *how & 0x80 ? *when : 0u});
    return true;
}

// The changes of this input, and of no other, are in place afterwards.
inline void change(Genuine& genuine, const std::uint8_t* data, std::size_t size) {
    ByteCursor cursor(Bytes(reinterpret_cast<const std::byte*>(data), size));
    std::vector<Change> changes;
    while (changes.size() < 16 && read_change(cursor, genuine, changes)) {
    }
    genuine.changed->changes = std::move(changes);
    genuine.changed->reads = 0;
}

}  // namespace underseer
