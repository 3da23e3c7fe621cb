"""Submits a job over MQTT 5 and prints the answer that comes to the response topic, as JSON.

submit.py PORT PASSWORD SUBMISSION: uses paho-mqtt as anybody would, with correlation data.
"""
import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT, PASSWORD, SUBMISSION = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ANSWERS = "my/answers"
CORRELATION = b"\x00 the first question"

answers = queue.Queue()
subscribed = queue.Queue()

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.username_pw_set("ipdc", PASSWORD)
client.on_message = lambda client, userdata, message: answers.put(message)
client.on_subscribe = lambda *_: subscribed.put(True)
client.connect("127.0.0.1", PORT)
client.loop_start()
client.subscribe(ANSWERS, qos=1)
subscribed.get(timeout=30)

properties = Properties(PacketTypes.PUBLISH)
properties.ResponseTopic = ANSWERS
properties.CorrelationData = CORRELATION
client.publish("ipdc/v1/jobs/submit", SUBMISSION, qos=1, properties=properties)

answer = answers.get(timeout=60)
print(json.dumps({
    "payload": json.loads(answer.payload),
    "correlated": answer.properties.CorrelationData == CORRELATION,
}))
client.disconnect()
client.loop_stop()
