// FakeWorld: a FakeGuest with one of everything that can be listed, and what each list must say,
// written down here from what was built and not from what a parser reads.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "event/observation.h"
#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {

class FakeWorld {
  public:
    // How kernels keep these: until 6.1 to 6.7 (mounts and mappings in lists, a module's memory in
    // two layouts), and since (in trees, in an array).
    enum class Age : std::uint8_t { old, recent };
    FakeWorld(Age age, unsigned levels);

    FakeGuest& guest() { return guest_; }

    // In the order of the kernel's own lists.
    std::vector<event::Module> modules;
    std::vector<event::Mount> mounts;
    std::vector<event::OpenFile> files;
    std::vector<event::Vma> maps;
    std::vector<event::NetworkInterface> interfaces;
    std::vector<event::BpfProgram> bpf_programs;
    std::vector<event::BpfMap> bpf_maps;
    std::vector<event::BpfLink> bpf_links;
    std::vector<event::Socket> sockets;
    std::vector<event::KernelLogLine> log;

    // Where the structures of this world lie, and how long they are: what a guest may lie about.
    const std::vector<std::pair<GuestVirt, std::size_t>>& structures() const { return structures_; }
    // Something of each list goes, as the kernel takes it away; undone in reverse order.
    struct Change {
        std::string topic;
        std::function<void()> go, come_back;
    };
    const std::vector<Change>& changes() const { return changes_; }

  private:
    GuestVirt place(std::size_t size_bytes);
    GuestVirt text(std::string_view words);
    template <typename T>
    void set(GuestVirt structure, std::string_view type, std::string_view member, T value) {
        guest_.write(structure + guest_.offset(type, member), value);
    }
    GuestVirt at(GuestVirt structure, std::string_view type, std::string_view member) const {
        return structure + guest_.offset(type, member);
    }
    void add_change(std::string topic, std::vector<std::pair<GuestVirt, std::uint64_t>> words);
    void leave_list(std::string topic, GuestVirt node);

    void define_types();
    void build_modules();
    GuestVirt super_block(std::string_view type, std::uint32_t dev);
    GuestVirt inode(GuestVirt sb, std::uint64_t number, std::uint32_t mode);
    GuestVirt dentry(std::string_view name, GuestVirt parent, GuestVirt inode);
    GuestVirt file(GuestVirt mount, GuestVirt dentry, GuestVirt inode);
    void build_file_systems();
    void build_mounts();
    void build_files();
    void build_maps();
    void build_interfaces();
    GuestVirt add_device(GuestVirt net, std::uint32_t index, std::string_view name);
    // A table of numbers 1 and 2.
    void build_idr(std::string_view symbol, GuestVirt first, GuestVirt second,
                   std::string_view topic);
    void build_bpf();
    void build_sockets();
    void build_log();

    Age age_;
    FakeGuest guest_;
    std::vector<std::pair<GuestVirt, std::size_t>> structures_;
    std::vector<Change> changes_;
    GuestVirt daemon_, fd_array_, net_, eth0_;
    // The root file system, a tmpfs on /tmp, and what sockets lie in.
    GuestVirt root_sb_, tmp_sb_, socket_sb_, root_, tmp_, passwd_, passwd_inode_, conf_;
    GuestVirt root_mount_, tmp_mount_, socket_mount_, passwd_file_;
};

}  // namespace underseer::guest_linux
